"""A sweep on this machine, on SLURM, on TPU pods and Kubernetes; needs no jax."""
