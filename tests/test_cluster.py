"""Searches on Ray clusters, of several nodes on this machine: the rows, and what faults do."""

from __future__ import annotations

import contextlib
import gc
import itertools
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import cast

import pytest
import test_workers
import torch
from conftest import ROOT, Options, tiny_data
from ray.cluster_utils import Cluster as Nodes
from test_ending import Running
from test_search import command, refused, rows, words
from test_workers import JOBS, SETTING, Pretending, reasons

import train_mosi
from search import cluster, jobs, task
from search.cluster import Cluster, connected
from search.jobs import Trainer
from search.messages import Notice
from training.result import Result
from training.stacked import Job
from utils import InputError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed file .*/session_:ResourceWarning"),  # Ray's logs
]
CLIENT_PORT = 25456  # beyond those that Ray takes for each client


@pytest.fixture
def options(options: Options) -> Options:
    """A small search on tiny data, in as many tasks as there are cores.

    It takes the reference path: each new cluster would compile the fast one anew.
    """
    return {**{name: value for name, value in options.items() if name != "jobs"}, "stack": 1}


def running(mark: str) -> list[str]:
    """Returns the ids of the processes that have the mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if mark.encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    """The folder of temporary files: a path that is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head node and one with two cores, to be found by "auto"."""
    losses = {"health_check_period_ms": 500, "health_check_failure_threshold": 2}  # soon noticed
    head = {
        "num_cpus": 0,
        "_system_config": losses,
        "ray_client_server_port": CLIENT_PORT,
        "include_dashboard": False,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        nodes = Nodes(initialize_head=True, head_node_args=head)
        patch.setenv("RAY_ADDRESS", str(nodes.address))
        nodes.add_node(num_cpus=2)
        yield nodes
        nodes.shutdown()
        gc.collect()  # Ray's open files, while their warnings are ignored


@pytest.fixture(scope="module")
def ray(nodes: Nodes) -> Iterator[ModuleType]:
    """Ray, connected."""
    with connected("auto", cuda=False, jobs=None) as connection:
        connection.ray.cloudpickle.register_pickle_by_value(test_workers)
        yield connection.ray


def run(cluster: Cluster, trainer: Pretending, chunks: Iterator[list[Job]]) -> list[Result]:
    messages = cluster.train(chunks, cast(Trainer, trainer), tiny_data())
    return [message for message in messages if isinstance(message, Result)]


def test_cluster_takes_three_kinds_of_address() -> None:
    for address in ("nowhere", "ray://host", "ray://:10001", "127.0.0.1:6379"):
        message = refused("mosi", ["--cluster", address])
        assert f"--cluster: expected auto, local or ray://HOST:PORT, got '{address}'" in message


def test_without_ray_a_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    message = refused("pom", ["--cluster", "auto"])
    assert "pip install -r requirements-cluster.txt" in message


@pytest.mark.parametrize("address", ["auto", "ray://127.0.0.1:9"])
def test_where_no_cluster_answers_a_script_ends_with_one_line(
    address: str, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    message = refused("mosi", [*words(options), "--cluster", address])
    assert f"--cluster {address}: expected a running Ray cluster, got: " in message


def test_an_own_cluster_leaves_nothing_when_interrupted_nor_after_the_next_one_when_killed(
    options: Options, folder: Path, tmp_path: Path
) -> None:
    options["cluster"] = "local"
    marks = {
        **{"TMPDIR": str(folder), "LMF_TEST": f"killed in {folder}"},
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "torch's"),  # which it makes, and leaves
    }
    with Running(options, marks) as killed:
        killed.train(1)
        killed.process.kill()
        killed.process.communicate()
        (left,) = folder.iterdir()
        with Running({**options, "run_id": 2}, {**marks, "LMF_TEST": ""}) as next_one:
            next_one.train(1)
            next_one.ended(signal.SIGHUP)
    assert not running(f"TMPDIR={folder}")
    assert not running(f"LMF_TEST={marks['LMF_TEST']}")
    assert not left.exists()
    assert not list(folder.iterdir())
    assert 1 <= len(rows(Path(str(options["output_path"])) / "results_mosi_2.csv")) < 5000


@pytest.mark.parametrize(("address", "stack"), [("auto", 8), (f"ray://127.0.0.1:{CLIENT_PORT}", 1)])
def test_a_cluster_writes_the_same_rows_as_this_machine(
    address: str, stack: int, nodes: Nodes, options: Options, tmp_path: Path
) -> None:
    options |= {"epochs": 7, "prune": True, "pilots": 2, "stack": stack}
    there = {**options, "run_id": "there", "cluster": address}
    done = subprocess.run(
        command("mosi", there), capture_output=True, text=True, timeout=100, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nRay cluster: 2 CPUs, 2 nodes\n" in done.stdout
    path = Path(str(options["output_path"])) / "results_mosi_there.csv"
    assert rows(path) == rows(train_mosi.main(options))
    assert {row["Status"] for row in rows(path).values()} == {"ok", "pruned"}


def test_an_interrupted_search_leaves_no_task_on_the_cluster(
    nodes: Nodes, ray: ModuleType, options: Options
) -> None:
    with Running({**options, "cluster": "auto"}, {}) as search:
        search.train(1)
        search.ended(signal.SIGINT)
    for _ in range(100):
        if ray.available_resources().get("CPU") == 2:
            return
        time.sleep(0.1)
    raise AssertionError("tasks hold cores of the cluster")


def test_a_search_whose_cluster_is_lost_keeps_its_rows(nodes: Nodes, options: Options) -> None:
    others = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    environment = {"RAY_ADDRESS": str(others.address)}
    with Running({**options, "cluster": "auto"}, environment) as search:
        search.train(1)
        others.shutdown()
        errors = search.process.communicate(timeout=60)[1]
    assert search.process.returncode in (1, 2)  # Ray itself may end the process at any moment
    assert "Traceback" not in errors
    assert 1 <= len(rows(Path(str(options["output_path"])) / "results_mosi_1.csv")) < 5000


@pytest.mark.parametrize("fault", ["death", "memory"])
def test_a_setting_that_takes_its_worker_down_is_given_up_and_the_others_are_trained(
    fault: str, ray: ModuleType, tmp_path: Path
) -> None:
    trainer = Pretending(tmp_path, fault)
    chunks = (JOBS[i : i + 3] for i in (0, 3))
    found = reasons(run(Cluster(ray, False, None), trainer, chunks))
    sign = {"death": "its worker was lost", "memory": "ran out of memory: [enforce fail"}[fault]
    assert sign in found.pop(2)
    assert set(found) == {1, 3, 4, 5, 6}
    for reason in found.values():  # by the scripts that were sent to the workers
        assert reason.startswith("by ")
        assert "/runtime_resources/" in reason
        assert str(ROOT) not in reason
    assert trainer.attempts(2) == jobs.ATTEMPTS
    assert trainer.attempts(1) == 1


def test_an_exception_in_a_worker_is_shown_with_its_traceback(
    ray: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)a worker failed.*ZeroDivisionError: a fault"):
        run(Cluster(ray, False, None), Pretending(tmp_path, "error"), iter([JOBS]))


def test_few_tasks_are_sent_ahead_of_those_that_run(ray: ModuleType, tmp_path: Path) -> None:
    drawn = 0

    def endless() -> Iterator[list[Job]]:
        nonlocal drawn
        for drawn in itertools.count(1):
            yield [(SETTING, drawn)]

    finished = 0
    messages = Cluster(ray, False, None).train(
        endless(), cast(Trainer, Pretending(tmp_path)), tiny_data()
    )
    for message in messages:
        finished += isinstance(message, Result)
        assert drawn - finished <= 3 + task._ROOM  # two cores, and one task ahead
        if finished == 20:
            break
    messages.close()


def test_another_torch_on_a_worker_is_refused(
    ray: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", "9.8.7")
    with pytest.raises(InputError, match=r"^a worker on .*: expected torch 9\.8\.7"):
        run(Cluster(ray, False, None), Pretending(tmp_path), iter([JOBS]))


def test_a_stack_is_trained_on_a_node_that_joins_when_its_own_is_lost(
    nodes: Nodes, ray: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_LOOK_SECONDS", 0)
    monkeypatch.setattr(cluster, "_WAIT_SECONDS", 0)
    trainer = Pretending(tmp_path, "standstill", times=1)
    messages = Cluster(ray, False, None).train(iter([JOBS]), cast(Trainer, trainer), tiny_data())
    results, lost, joined = [], False, False
    for message in messages:
        if isinstance(message, Result):
            results.append(message)
        if not lost and trainer.attempts(2):
            (node,) = nodes.worker_nodes
            nodes.remove_node(node, allow_graceful=False)
            lost = True
        elif lost and not joined and isinstance(message, Notice) and "waiting" in message.line:
            assert message.line.startswith("waiting for a CPU: ")
            nodes.add_node(num_cpus=2)
            joined = True
    assert joined
    assert all(reason.startswith("by ") for reason in reasons(results).values())
    assert [trainer.attempts(rank) for rank in range(1, 7)] == [1, 2, 1, 1, 1, 1]


def test_cuda_is_refused_where_the_cluster_or_a_worker_has_none(
    nodes: Nodes, ray: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="--cuda: expected a GPU in the Ray cluster, found none"):
        Cluster(ray, True, None)
    node = nodes.add_node(num_cpus=0, num_gpus=1)  # it only says so
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"a worker on .*: expected a GPU that torch can use"):
            run(Cluster(ray, True, None), Pretending(tmp_path), iter([JOBS]))
    nodes.remove_node(node)
