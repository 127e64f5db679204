"""The peak of memory that exit.json and the summary report."""

import errno
import platform
import subprocess
import sys

import pytest
import torch

from pctool.cli import main
from pctool.errors import InputError
from pctool.training.memory import enough_memory, peak_mib


def test_the_peak_holds_what_has_been_given_back():
    """A process that touched 300 MiB and freed them reports them, whatever its parent used."""
    code = (
        "import numpy as np\n"
        "from pctool.training.memory import peak_mib\n"
        "before = peak_mib('cpu')\n"
        "block = np.ones(300 * 2**17)\n"
        "del block\n"
        "print(before, peak_mib('cpu'))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(float, result.stdout.split())
    # The block may reuse some of what the imports gave back.
    assert 200 < after - before < 310


def _unmapped():
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


@pytest.mark.parametrize("lacking", [lambda: torch.empty(2**60), lambda: bytes(2**62), _unmapped])
def test_too_little_memory_is_one_line(lacking, monkeypatch, capsys):
    """In training it says what takes less, elsewhere that there is none; both are exit code 2."""
    with (
        pytest.raises(InputError, match=r"this machine, .* not enough memory.*; a smaller --batch-size"),
        enough_memory(),
    ):
        lacking()
    monkeypatch.setattr(main, "app", lambda *arguments, **options: lacking())
    assert main.run([]) == 2
    assert capsys.readouterr().err.startswith("pctool: not enough memory for this; ask for less")


def test_a_gpus_memory_is_told_apart():
    """By torch's words, without those that go on about its allocator."""
    error = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 1 GiB"
    )
    message = r"^the GPU has not enough memory \(CUDA out of memory\. Tried to allocate 20\.00 GiB\); a smaller"
    with pytest.raises(InputError, match=message), enough_memory():
        raise error


def test_on_a_gpu_it_is_what_tensors_took(monkeypatch):
    """On cuda the peak is PyTorch's count of allocated bytes, in MiB."""
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**19)
    assert peak_mib("cuda") == 1.5


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_freed_memory_is_used_again():
    """Ten tensors of 40 MiB, one after the other, after ten like them: without the setting the system clears the pages
    of each, 100,000 of 4 KiB or fewer larger ones; with it, of none."""
    code = (
        "import resource, torch\n"
        "from pctool.training.memory import keep_freed_memory\n"
        "def faults():\n"
        "    for i in range(20):\n"
        "        if i == 10: before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "        torch.ones(10 * 2**20)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "print(faults(), keep_freed_memory(), faults())"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    without, _, kept = ended.stdout.split()
    assert int(kept) < 20 < int(without)
