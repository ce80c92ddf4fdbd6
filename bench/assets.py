"""Makes an asset root for Isaac Lab from the assets that come with the installed newton package.

    python -m paceline.bench.assets [--unless-reachable SECONDS] ROOT

For machines that cannot reach NVIDIA's asset server. Isaac Lab finds the root through ISAACSIM_ASSET_ROOT. It serves
the tasks Isaac-Cartpole*, Isaac-Ant* and any other that needs nothing but the ground plane. Run it with the Python of
the jobs' environment. Nothing is downloaded, and the folder is complete or absent: it is made beside and renamed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import shutil
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path

from paceline.bench.errors import LaunchError, PacelineError

CARTPOLE = "Isaac/IsaacLab/Robots/Classic/Cartpole/cartpole.usd"
ANT = "Isaac/Robots/IsaacSim/Ant/ant_instanceable.usd"
GROUND = "Isaac/IsaacLab/Environments/Grid/default_ground_plane_checker_v1/default_ground_plane.usda"

# Isaac Lab's ground plane spawner looks for a child of type Plane and sets its collision properties.
_GROUND_USDA = """#usda 1.0
(
    defaultPrim = "GroundPlane"
    metersPerUnit = 1
    upAxis = "Z"
)

def Xform "GroundPlane"
{
    def Plane "CollisionPlane" (
        prepend apiSchemas = ["PhysicsCollisionAPI"]
    )
    {
        uniform token axis = "Z"
        uniform token purpose = "guide"
    }
}
"""


def newton_assets() -> Path:
    """Return the folder of newton's example assets, without importing newton; LaunchError if it is not installed."""
    spec = importlib.util.find_spec("newton")
    if spec is None or not spec.submodule_search_locations:
        raise LaunchError(
            f"newton is not installed for {sys.executable}: the offline assets are made from its examples"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "examples" / "assets"


def cartpole_usda(source: Path) -> str:
    """Return newton's copy of Isaac Lab's cartpole with its default prim named as the prim itself is.

    The file says defaultPrim "cartPole" while the prim is "cartpole"; OpenUSD then finds no default prim to reference.
    """
    text = source.read_text(encoding="utf-8")
    wrong, right = 'defaultPrim = "cartPole"', 'defaultPrim = "cartpole"'
    if right in text:
        return text
    if text.count(wrong) != 1:
        raise LaunchError(f"{source}: no default prim named cartPole; this newton has another cartpole than 1.6.1")
    return text.replace(wrong, right)


def make_assets(root: Path, source: Path | None = None) -> list[Path]:
    """Make the asset root, replacing files that are there, and return the files.

    Raises:
        LaunchError: If newton is missing or has other assets, or if the folder cannot be written.
    """
    source = source or newton_assets()
    try:
        contents = {
            CARTPOLE: cartpole_usda(source / "cartpole_single_pendulum.usda"),
            ANT: (source / "ant.usda").read_text(encoding="utf-8"),
            GROUND: _GROUND_USDA,
        }
    except OSError as error:
        raise LaunchError(f"newton's example asset {error.filename} cannot be read: {error.strerror}") from error
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}."))
        try:
            for name, text in contents.items():
                path = temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            temporary.chmod(0o755)
            _install(temporary, root)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise LaunchError(f"cannot write the asset root {root}: {error.strerror or error}") from error
    return [root / name for name in contents]


def server_reachable(timeout_s: float) -> bool:
    """Return whether the asset server that Isaac Lab is set to gives out the ground plane, within a bounded time."""
    try:
        from isaaclab.utils.assets import NUCLEUS_ASSET_ROOT_DIR  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return False
    if not str(NUCLEUS_ASSET_ROOT_DIR).startswith(("http://", "https://")):
        return Path(NUCLEUS_ASSET_ROOT_DIR, GROUND).exists()
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(f"{NUCLEUS_ASSET_ROOT_DIR}/{GROUND}", method="HEAD")
        with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(request, timeout=timeout_s) as answer:
            if answer.status == 200:
                answered.set()

    # In a thread: a name server that does not answer cannot be bounded otherwise.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(timeout_s)
    return answered.is_set()


def _install(temporary: Path, root: Path) -> None:
    """Put a finished tree in place: by renaming if there is none, file by file into one that is there."""
    try:
        os.rename(temporary, root)
        return
    except OSError:
        if not root.is_dir():
            raise
    for path in sorted(temporary.rglob("*")):
        target = root / path.relative_to(temporary)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            os.replace(path, target)


def main(arguments: list[str] | None = None) -> int:
    """Make the asset root named on the command line and print how to use it."""
    parser = argparse.ArgumentParser(prog="python -m paceline.bench.assets", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("root", type=Path, help="folder to make")
    parser.add_argument(
        "--unless-reachable", type=float, metavar="SECONDS", help="make nothing if NVIDIA's server answers in this time"
    )
    options = parser.parse_args(arguments)
    if options.unless_reachable and server_reachable(options.unless_reachable):
        print("NVIDIA's asset server can be reached: nothing made")
        return 0
    make_assets(options.root.absolute())
    print(f"ISAACSIM_ASSET_ROOT={options.root.absolute()}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PacelineError as error:
        print(f"paceline: {error}", file=sys.stderr)
        sys.exit(2)
