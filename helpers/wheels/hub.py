"""The other source of models, the Hugging Face Hub: whether it answers, and what failures behind transformers mean."""

import errno
import http.client
import threading
import urllib.error
import urllib.request

import torch
import transformers
from huggingface_hub import constants

from helpers.settings import first_line, message

GPT2, GPT2_REVISION = "openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e"
DEADLINE = 5  # seconds until a hub that says nothing counts as unreachable
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}


def unreachable():
    """Why the Hugging Face Hub cannot be used, or None if it answers (asked for at most `DEADLINE` seconds)."""
    if constants.HF_HUB_OFFLINE:
        return message("offline")
    address = constants.ENDPOINT
    answer = [message("silent_hub", hub=address, seconds=DEADLINE)]

    def ask():
        url = f"{address}/{GPT2}/resolve/{GPT2_REVISION}/config.json"
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=DEADLINE).close()
            answer[0] = None
        except urllib.error.HTTPError as error:
            answer[0] = message("hub_failed", hub=address, code=error.code) if error.code >= 500 else None
        except (OSError, ValueError, http.client.HTTPException) as error:
            answer[0] = message("no_hub", hub=address, reason=first_line(getattr(error, "reason", error)))

    asking = threading.Thread(target=ask, daemon=True)  # a look-up of the name has no time-out of its own
    asking.start()
    asking.join(DEADLINE)
    return answer[0]


def status(error):
    """The HTTP status that an error of transformers goes back to, or None."""
    responses = (getattr(cause, "response", None) for cause in _causes(error))
    return next((response.status_code for response in responses if response is not None), None)


def reason_and_advice(error):
    """What happened, by the first cause that says it (transformers wraps answers and full disks), and what helps."""
    causes = _causes(error)
    outside = (e for e in causes if getattr(e, "response", None) or (isinstance(e, OSError) and e.errno))
    reason = first_line(next(outside, error))
    if status(error):
        return reason, message("refused_advice")
    if DISK & {getattr(cause, "errno", None) for cause in causes}:
        return reason, message("cache_advice", cache=constants.HF_HUB_CACHE)
    if isinstance(error, ImportError):
        return reason, message("package_advice")
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error):
        return reason, message("memory_advice")
    return reason, message("files_advice", version=transformers.__version__)


def _causes(error):
    """An error, what it was raised from, what that was raised from, and so on."""
    causes = [error]
    while error := error.__cause__ or error.__context__:
        causes.append(error)
    return causes
