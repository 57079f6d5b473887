"""The hub of a class for tests and measurements: free ports, accounts that need no Unix user, no limits.

`tests.support.hub` writes what it chooses, as JSON, into the environment variable QKV_HUB.
"""

import json
import os

own = json.loads(os.environ["QKV_HUB"])
c = get_config()  # noqa: F821
load_subconfig(own["config"])  # noqa: F821
c.JupyterHub.bind_url = f"http://127.0.0.1:{own['public']}"
c.JupyterHub.hub_port = own["hub"]
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{own['api']}"
c.JupyterHub.authenticator_class = "null"  # students come by a token
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = own["homes"] + "/{username}"
c.Spawner.args = [*c.Spawner.args, "--allow-root"]
c.Spawner.environment["PIP_NO_INDEX"] = "1"  # a download would fail, not slip by
c.Spawner.environment["HF_HUB_OFFLINE"] = "1"

scopes = ["admin:users", "admin:servers", "access:servers", "tokens"]
c.JupyterHub.load_roles = [*c.JupyterHub.load_roles, {"name": "class", "services": ["class"], "scopes": scopes}]

# What stops idle servers waits for a sign: on a busy machine a first request may come later than a short timeout.
(service,) = c.JupyterHub.services
wait = 'until [ -e "$0" ]; do sleep 0.2; done; exec "$@"'
quick = [*service["command"][:-1], "--timeout=2", "--cull-every=1"]
service["command"] = ["sh", "-c", wait, own["sign"], *quick]
c.JupyterHub.services = [service, {"name": "class", "api_token": own["token"]}]
