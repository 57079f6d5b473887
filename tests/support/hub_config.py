"""The hub of a class for tests and measurements: free ports, accounts that need no Unix user, no limits.

`tests.support.hub` says in QKV_CLASS, QKV_TOKEN and QKV_PORTS what it chooses.
"""

import json
import os
from pathlib import Path

folder, ports = os.environ["QKV_CLASS"], json.loads(os.environ["QKV_PORTS"])
c = get_config()  # noqa: F821
load_subconfig(str(Path(__file__).parents[2] / "tools" / "jupyterhub" / "jupyterhub_config.py"))  # noqa: F821
c.JupyterHub.bind_url = f"http://127.0.0.1:{ports[0]}"
c.JupyterHub.hub_port = ports[1]
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{ports[2]}"
c.JupyterHub.authenticator_class = "null"  # students come by a token
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = f"{folder}/home/{{username}}"
c.Spawner.args = [*c.Spawner.args, "--allow-root"]
mark = {"QKV_CLASS": folder}  # by which the test knows its processes
c.Spawner.environment |= mark | {"PIP_NO_INDEX": "1", "HF_HUB_OFFLINE": "1"}  # a download would fail, not slip by

scopes = ["admin:users", "admin:servers", "access:servers", "tokens"]
c.JupyterHub.load_roles = [*c.JupyterHub.load_roles, {"name": "class", "services": ["class"], "scopes": scopes}]

# What stops idle servers waits for a sign: on a busy machine a first request may come later than a short timeout.
(service,) = c.JupyterHub.services
wait = 'until [ -e "$0" ]; do sleep 0.2; done; exec "$@"'
quick = [*service["command"][:-1], "--timeout=2", "--cull-every=1"]
service |= {"command": ["sh", "-c", wait, f"{folder}/stop idle servers now", *quick], "environment": mark}
c.JupyterHub.services = [service, {"name": "class", "api_token": os.environ["QKV_TOKEN"]}]
