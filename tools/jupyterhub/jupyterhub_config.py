"""JupyterHub for one class on one machine; docs/classroom.md says how to set it up.

    jupyterhub --config tools/jupyterhub/jupyterhub_config.py

What a class may have to change stands first, each line marked EDIT.
"""

import os
import sys
from pathlib import Path

c = get_config()  # noqa: F821

HERE = Path(__file__).resolve().parent
NOTEBOOKS = HERE.parents[1] / "notebooks"  # EDIT: has the folders vi and en; each student gets a copy
CACHE = os.environ.get("QKV_CACHE") or "/srv/qkv/cache"  # EDIT: filled once; students only read it
STUDENTS = "students"  # EDIT: the Unix group whose members may log in
TEACHERS = {"teacher"}  # EDIT: may log in, and see and stop the servers of others
SPAWNER = "localprocess"  # EDIT: "systemd" keeps the limits below; a plain process is not limited by anything
MEMORY = "3G"  # EDIT: of one student; docs/classroom.md has what was measured
CORES = 2.0  # EDIT: of one student
IDLE = 60 * 60  # EDIT: seconds without a sign of life until a server is stopped
DAY = 24 * 60 * 60  # EDIT: seconds that a login, a token and a server last at most

# Who may come in.
c.JupyterHub.authenticator_class = "pam"  # the accounts of this machine
c.PAMAuthenticator.allowed_groups = {STUDENTS}
c.PAMAuthenticator.admin_users = TEACHERS
c.JupyterHub.cookie_max_age_days = DAY / 86400  # of a login; 14 days if nothing is said
c.JupyterHub.token_expires_in_max_seconds = DAY  # of what a student asks for; for ever if nothing is said

# The way in.  A web server in front speaks HTTPS; nothing but it reaches this port.
c.JupyterHub.bind_url = "http://127.0.0.1:8000"
c.ConfigurableHTTPProxy.command = [
    str(Path(sys.executable).with_name("configurable-http-proxy")),
    "--proxy-timeout=180000",  # milliseconds; without it 20 s, too short for a kernel that starts on a busy machine
]

# A student's server.  It runs as the student, so nothing is ever written into a home folder by root.
c.JupyterHub.spawner_class = SPAWNER
c.Spawner.cmd = [sys.executable, str(HERE / "start_server.py"), str(NOTEBOOKS)]
c.Spawner.notebook_dir = "~/qkv"
c.Spawner.default_url = "/lab/tree/vi"
c.Spawner.environment = {
    "QKV_CACHE": CACHE,
    "QKV_MODEL": "smollm2",  # not GPT-2 from the Hub, once for each student
    "QKV_KERNEL": "torch",  # the compiled kernel would be compiled once more for each student
    "OMP_NUM_THREADS": "1",  # students are the parallel work here
    "TOKENIZERS_PARALLELISM": "false",
}
c.Spawner.mem_limit = MEMORY
c.Spawner.cpu_limit = CORES
# With "systemd" only: no fork bomb, a /tmp of one's own, no way to another user's rights.
c.SystemdSpawner.unit_extra_properties = {"TasksMax": "512"}
c.SystemdSpawner.isolate_tmp = True
c.SystemdSpawner.disable_user_sudo = True
c.Spawner.args = [
    "--MappingKernelManager.cull_idle_timeout=1800",  # a kernel whose tab was closed still holds a model
    "--MappingKernelManager.cull_interval=120",
]
# Forty servers that start at once wait for the processor, not for a fault.
c.Spawner.start_timeout = 180
c.Spawner.http_timeout = 180
c.JupyterHub.concurrent_spawn_limit = 10

# Servers that nobody uses.  An endless loop that prints is a sign of life: hence an age as well.
culler = [sys.executable, "-m", "jupyterhub_idle_culler", f"--max-age={DAY}", f"--timeout={IDLE}"]
c.JupyterHub.services = [{"name": "cull-idle", "command": culler}]
scopes = ["list:users", "read:users:activity", "read:servers", "delete:servers"]
c.JupyterHub.load_roles = [{"name": "cull-idle", "services": ["cull-idle"], "scopes": scopes}]
