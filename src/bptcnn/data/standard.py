"""Where the files of the standard data sets are: the user's folder, or a cache that is filled by download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bptcnn.data.download import RemoteFile, fetch
from bptcnn.errors import DataError

SERVERS = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist",
    "fashion-mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    "cifar-10": "https://www.cs.toronto.edu/~kriz",
}
"""The folder on a server that holds each data set."""

_FILES = """
mnist         train-images-idx3-ubyte.gz  9912422   440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609
mnist         train-labels-idx1-ubyte.gz  28881     3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c
mnist         t10k-images-idx3-ubyte.gz   1648877   8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6
mnist         t10k-labels-idx1-ubyte.gz   4542      f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6
fashion-mnist train-images-idx3-ubyte.gz  26421880  3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84
fashion-mnist train-labels-idx1-ubyte.gz  29515     a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845
fashion-mnist t10k-images-idx3-ubyte.gz   4422102   346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073
fashion-mnist t10k-labels-idx1-ubyte.gz   5148      67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5
cifar-10      cifar-10-binary.tar.gz      170052171 c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd
"""


def remote_files(servers: Mapping[str, str] = SERVERS) -> dict[tuple[str, str], RemoteFile]:
    """What can be downloaded.

    Args:
        servers: the address of the folder that holds each data set's files.

    Returns:
        Each file by (data set, file name).

    Example:
        >>> remote_files()["cifar-10", "cifar-10-binary.tar.gz"].url
        'https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz'
    """
    rows = [line.split() for line in _FILES.split("\n") if line]
    return {(name, file): RemoteFile(f"{servers[name]}/{file}", sha, int(size)) for name, file, size, sha in rows}


def _cache_folder() -> Path:
    return Path.home() / ".cache" / "bptcnn"


@dataclass(frozen=True)
class Store:
    """The files of one standard data set.

    Args:
        name: the data set's name.
        dir: the user's folder, in which nothing is ever downloaded; None = the cache.
        cache: where downloads go, in a folder per data set.
        remote: what can be downloaded.
    """

    name: str
    dir: str | None = None
    cache: Path = field(default_factory=_cache_folder)
    remote: Mapping[tuple[str, str], RemoteFile] = field(default_factory=remote_files)

    def folders(self) -> list[Path]:
        """Where to look: the folder and its subfolder of the data set's name.

        Raises:
            DataError: the user's folder does not exist.
        """
        if self.dir is None:
            return [self.cache / self.name]
        folder = Path(self.dir).expanduser()
        if not folder.exists():
            raise DataError(f"data.dir = {self.dir!r} does not exist: name a folder with the files of {self.name}")
        return [folder, folder / self.name]

    def find(self, names: Sequence[str]) -> Path | None:
        """The first of these names that exists."""
        candidates = (folder / name for folder in self.folders() for name in names)
        return next((path for path in candidates if path.exists()), None)

    def obtain(self, names: Sequence[str], unpacked: str = "") -> Path:
        """Find a file under one of its names, or download it to the cache.

        Args:
            names: the names that are accepted; the first is the one on the server.
            unpacked: what may stand in the folder in its place, for the message.

        Returns:
            The file's path.

        Raises:
            DataError: it is not in the user's folder, or cannot be downloaded.
        """
        found = self.find(names)
        if found is not None:
            return found
        if self.dir is not None:
            it = f"it or {unpacked}" if unpacked else "it"
            raise DataError(
                f"{names[0]} is missing in {self.dir}: put {it} there, or leave out data.dir to download it"
            )
        return fetch(self.remote[self.name, names[0]], self.cache / self.name)
