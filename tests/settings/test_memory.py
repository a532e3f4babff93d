"""A limit of memory that is too low for any run is told before anything is loaded."""

import resource

import prepared_dataset
import pytest

from bbo.settings import memory
from bbo.settings.sections import DataConfig
from bbo.types import UsageError

GB = 10**9


def limited(monkeypatch, limit):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, -1))


def test_a_limit_that_is_too_low_is_refused(monkeypatch):
    for limit in (1 * GB, 2 * GB):
        limited(monkeypatch, limit)
        with pytest.raises(UsageError, match=rf"digits needs 2.2 GB .* is {limit // GB}.0 GB; rai"):
            memory.check_memory(DataConfig())
    for limit in (3 * GB, resource.RLIM_INFINITY):
        limited(monkeypatch, limit)
        memory.check_memory(DataConfig())


def test_images_are_counted(tmp_path, monkeypatch):
    prepared_dataset.write_dataset(tmp_path)
    config = DataConfig(dataset="cifar10", data_dir=str(tmp_path))
    needed = memory.PROGRAM + 2 * 40 * 32 * 32 * 3
    limited(monkeypatch, needed)
    memory.check_memory(config)
    limited(monkeypatch, needed - 1)
    with pytest.raises(UsageError, match="cifar10 needs"):
        memory.check_memory(config)
    memory.check_memory(DataConfig())
