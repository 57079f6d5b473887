"""A kernel for nbval that is forked from a process which has imported already what every notebook imports."""

import multiprocessing
import os
import signal
from pathlib import Path

import matplotlib
from jupyter_client import BlockingKernelClient
from jupyter_client.connect import write_connection_file
from nbval.kernel import RunningKernel

INLINE = "module://matplotlib_inline.backend_inline"
FORKS = multiprocessing.get_context("forkserver")
IMPORTED = """ipywidgets transformers.models.llama.modeling_llama transformers.models.auto.tokenization_auto
transformers.convert_slow_tokenizer helpers.kernels.cpu helpers.experiments.verdicts helpers.teaching.checks
helpers.teaching.plots.interventions helpers.teaching.widgets"""
FORKS.set_forkserver_preload([__name__, *IMPORTED.split()])


def serve(connection_file, folder):
    """Be the kernel, in `folder`, until the process is killed or the one that forked it ends."""
    from ipykernel.kernelapp import IPKernelApp

    os.chdir(folder)
    matplotlib.rcParams["backend"] = INLINE  # a kernel says so in a variable, which is read when matplotlib is imported
    IPKernelApp.launch_instance(["-f", connection_file, f"--IPKernelApp.parent_handle={os.getppid()}"])


class WarmKernel(RunningKernel):
    """A process of its own for each notebook, as nbval's is, that begins with modules and nothing else."""

    def __init__(self, kernel_name, cwd=None, startup_timeout=60):
        self.connection_file, _ = write_connection_file()
        self.process = FORKS.Process(target=serve, args=(self.connection_file, cwd), daemon=True)
        self.process.start()
        self.kc = BlockingKernelClient(connection_file=self.connection_file)
        self.kc.load_connection_file()
        self.kc.start_channels()
        self.kc.wait_for_ready(timeout=startup_timeout)
        self._ensure_iopub_up()

    def is_alive(self):
        return self.process.is_alive()

    def interrupt(self):
        os.kill(self.process.pid, signal.SIGINT)

    def stop(self):
        self.kc.stop_channels()
        self.process.kill()
        self.process.join()
        Path(self.connection_file).unlink(missing_ok=True)
