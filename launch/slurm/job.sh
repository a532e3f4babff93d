#!/bin/bash
#SBATCH --requeue --open-mode=append --signal=TERM@120
# One run of a sweep: job.sh OUT OFFSET PYTHON [SNAPSHOT], as a task of an array; run = OFFSET + task.
# SIGTERM (preemption, end of the time limit) reaches the training processes; they save and exit 75
# (or die, 143, if still starting), and the run goes back in the queue. A user's scancel signals
# this shell as well: that is how it is told apart, and the run stays cancelled.
# All is told by arguments: with --export=NONE nothing of the environment comes along.
out=$1 run=$(($2 + SLURM_ARRAY_TASK_ID)) python=$3 snapshot=$4
trap cancelled=1 TERM
echo "run $run, start $((${SLURM_RESTART_COUNT:-0} + 1)) on $SLURM_JOB_NODELIST at $(date -Is)"

if [ -n "$snapshot" ]; then # the current folder keeps its meaning for data, but not for modules
  export PYTHONSAFEPATH=1 PYTHONPATH=$snapshot${PYTHONPATH:+:$PYTHONPATH}
fi
# Asked once for the job: if each process asked, some might begin what others see as done, and wait.
folder=$out/$(printf %04d "$run")
is_done="import pathlib, sys; from bbo.settings import workdir
sys.exit(not workdir.is_done(pathlib.Path(sys.argv[1])))"
if [ -e "$folder/summary.json" ] && "$python" -c "$is_done" "$folder"; then
  echo "run $run is done already"
  exit 0
fi

if [ -n "$SLURM_CPUS_PER_TASK" ]; then # srun of 22.05 and later does not take it over itself
  export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
fi
set --
tasks=${SLURM_NTASKS:-$SLURM_NNODES}
if [ "$tasks" -gt 1 ]; then
  set -- --distributed
  if [ -n "$SLURM_GPUS_ON_NODE" ] && [ "$tasks" -eq "$SLURM_NNODES" ]; then
    # A process takes all GPUs of its node; jax alone would take one.
    JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
    export JAX_LOCAL_DEVICE_IDS
  elif [ -n "$SLURM_GPUS_ON_NODE" ] && [ "$tasks" -ne $((SLURM_NNODES * SLURM_GPUS_ON_NODE)) ]; then
    echo "error: $tasks processes on $SLURM_NNODES nodes with $SLURM_GPUS_ON_NODE GPUs each;" \
      "ask for one process per node (--ntasks-per-node=1) or one per GPU"
    exit 2
  fi # one process per GPU is what jax does by itself
fi

# If one process crashes, SLURM_WAIT later the others are killed (137). --kill-on-bad-exit would
# end in 143, as preemption does, and be tried for ever.
export SLURM_WAIT=${SLURM_WAIT:-60} PYTHONUNBUFFERED=1
srun --export=ALL --kill-on-bad-exit=0 --label "$python" -m bbo launch.sweep "$out" "$run" "$@"
code=$?
if [[ $code =~ ^(75|143)$ && -z $cancelled ]]; then
  if [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ]; then
    # Never $SLURM_JOB_ID: for one task of the array that is the id of the whole array.
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" ||
      echo "not queued again; submit the sweep again to go on"
  else
    echo "interrupted $SLURM_RESTART_COUNT times; submit the sweep again to go on"
  fi
fi
exit $code
