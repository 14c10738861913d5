"""Training started by Hydra on SLURM, whose commands are played by small scripts that start the tasks of a job here."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_model import run_values, stage_tensors, stage_values, write_configs, write_corpus

SBATCH = """
import os, re, subprocess, sys
script = open(sys.argv[-1]).read()
flags = dict(re.findall(r"#SBATCH --([a-z-]+)=(\\S+)", script))
job, tasks = str(20_000 + os.getpid() % 10_000), flags["ntasks-per-node"]
os.environ |= {
    "SLURM_JOB_ID": job,
    "SLURM_JOB_NUM_NODES": flags["nodes"],
    "SLURM_NNODES": flags["nodes"],
    "SLURM_NTASKS": tasks,
    "SLURM_NTASKS_PER_NODE": tasks,
    "SLURM_JOB_NODELIST": "localhost",
    "SLURM_NODELIST": "localhost",
    "SLURM_JOB_NAME": flags["job-name"],
}
subprocess.Popen(["bash", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("Submitted batch job", job)
"""
SRUN = """
import os, subprocess, sys
command = sys.argv[sys.argv.index("-u") - 1 :]
files = {name: sys.argv[sys.argv.index(name) + 1].replace("%j", os.environ["SLURM_JOB_ID"])
         for name in ("--output", "--error")}
tasks = []
for rank in map(str, range(int(os.environ["SLURM_NTASKS"]))):
    place = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": "0"}
    out, err = (open(files[name].replace("%t", rank), "w") for name in ("--output", "--error"))
    tasks.append(subprocess.Popen(command, env=os.environ | place, stdout=out, stderr=err))
sys.exit(max(task.wait() for task in tasks))
"""
SACCT = 'print("JobID|State|NodeList")'


def write_commands(folder: Path) -> None:
    folder.mkdir()
    for name, code in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        (folder / name).write_text(f"#!{sys.executable}\n{code}")
        (folder / name).chmod(stat.S_IRWXU)


@pytest.mark.slow
def test_one_job_trains_in_as_many_processes_as_the_trainer_has_devices(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    write_commands(tmp_path / "bin")
    values = run_values(tmp_path, tmp_path / "run", {"audio_ctc": stage_values("audio_ctc", 2, validate_every=2)})
    values["trainer"] = {"accelerator": "cpu", "devices": 2, "num_nodes": 1, "strategy": "sharded"}
    arguments = ["-m", *write_configs(tmp_path / "conf", values), "hydra/launcher=slurm"]
    code = "from omni_avsr.cli.main import main; main()"
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, "train", *arguments],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    [script] = tmp_path.glob(".submitit/*/*_submission.sh")
    asked = script.read_text()
    for flag in ("nodes=1", "ntasks-per-node=2", "gpus-per-node=2", "time=1440"):
        assert f"#SBATCH --{flag}\n" in asked
    logs = [path.read_text() for path in sorted(tmp_path.glob(".submitit/*/*_log.*"))]
    assert sum("MEMBER: 1/2" in log for log in logs) == sum("MEMBER: 2/2" in log for log in logs) == 1
    assert list(stage_tensors(tmp_path / "run")) == ["0-audio_ctc"]
