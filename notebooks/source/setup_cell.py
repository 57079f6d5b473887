# @title Chuẩn bị (chạy ô này trước) · Set-up (run this cell first)
import os
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

REPOSITORY, BRANCH = "", "main"  # pyproject.toml, [tool.qkv]
FOLDER = "qkv-token-similarity"


def find_module():
    """The folder that holds helpers/: here, above, one below, or where it was installed."""
    places = [HERE, *HERE.parents]
    with suppress(OSError):  # a folder that may not be listed
        places += [HERE / name for name in sorted(os.listdir(HERE))]
    with suppress(ImportError, ValueError, AttributeError, TypeError):  # something else has that name
        places.append(Path(find_spec("helpers").origin).parents[1])
    # os.path: what may not be opened, or hangs on a disk that is gone, is no error there
    return next((str(place) for place in places if os.path.isfile(place / "helpers" / "capture.py")), None)


def clone_module():
    """Fetch the repository into the current folder; returns what was tried and what went wrong, if anything."""
    command = ["git", "clone", "--quiet", "--depth", "1", "--branch", BRANCH, REPOSITORY, FOLDER]
    settings = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}  # a private repository fails instead of asking
    try:
        done = subprocess.run(
            command,
            env=settings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{' '.join(command)}\n{error}"
    return f"{' '.join(command)}\n{done.stderr.strip()}" if done.returncode else None


try:
    HERE = Path.cwd()
except OSError as error:
    raise FileNotFoundError(
        f"\nThư mục làm việc của kernel Jupyter không còn nữa, hoặc không mở được ({error}): hãy mở lại sổ tay "
        "từ một thư mục còn tồn tại rồi khởi động lại kernel.\n"
        f"\nThe folder that the Jupyter kernel runs in is gone, or may not be opened ({error}): open the notebook again "
        "from a folder that exists, and restart the kernel."
    ) from None
found = find_module()
if not found and REPOSITORY:
    problem = clone_module()
    found = find_module()
    if not found:
        raise RuntimeError(
            f"\nKhông tải được học phần về {HERE}. Đã thử: {problem or 'git clone, nhưng không có helpers/'}\n"
            "Hãy kiểm tra kết nối mạng, kiểm tra địa chỉ và nhánh ghi trong pyproject.toml, mục [tool.qkv] (kho mã "
            f"phải công khai), xóa thư mục {FOLDER} nếu nó còn dang dở, rồi chạy lại ô này. Cách khác: dùng bản "
            "độc lập của sổ tay này (tải từ trang web của học phần, hoặc tạo bằng make standalone).\n"
            f"\nThe module could not be fetched into {HERE}. Tried: {problem or 'git clone, but no helpers/'}\n"
            "Check the connection, check the address and branch in pyproject.toml, [tool.qkv] (the repository must "
            f"be public), delete the folder {FOLDER} if it is incomplete, and run this cell again. Or use the "
            "standalone version of this notebook (download it from the module's site, or make standalone)."
        )
if not found:
    raise FileNotFoundError(
        f"\nKhông tìm thấy thư mục helpers/ của học phần: đã tìm trong {HERE}, trong các thư mục cha và các "
        "thư mục con của nó. Kho mã chưa ghi địa chỉ của mình nên ô này không thể tự tải về. Có hai cách: dùng bản "
        "độc lập của sổ tay này (tải từ trang web của học phần, hoặc tạo bằng make standalone), hoặc ghi địa chỉ như "
        "docs/start.vi.md hướng dẫn.\n"
        f"\nThe module's folder helpers/ was not found: looked in {HERE}, in the folders above it and in those "
        "inside it. The repository's address is not set, so this cell cannot fetch it. Two ways out: use the "
        "standalone version of this notebook (download it from the module's site, or make standalone), or set the "
        "address as docs/start.md says."
    )
sys.path.insert(0, found)

from helpers import environment, set_language

set_language("vi")
print(environment())
