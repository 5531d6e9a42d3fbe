"""The whole campaign, in a temporary folder, and its table."""

import argparse
import os
import random
import shutil
import sys
import tempfile
from contextlib import suppress

from tqdm import tqdm

from . import reference
from .directories import directories
from .disks import full_disks, full_folders
from .files import file_faults, image_faults
from .kills import command_kills, kills, sweep_kills
from .wandb_failures import wandb_faults


def main() -> None:
    """Run the campaign and print its table; exits with 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--directories", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="leave the folder")
    arguments = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="vaegan_pl-faults-")
    os.chdir(folder)
    tqdm.monitor_interval = 0  # its thread could hold a lock at a fork
    chance = random.Random(arguments.seed)
    expected, seconds = reference()
    table = {
        "kills": kills(arguments.kills, chance, expected, seconds),
        "kills of commands": command_kills(arguments.kills // 10, chance),
        "kills of sweeps": sweep_kills(arguments.kills // 8, chance),
        "mutated files": file_faults(arguments.files, chance),
        "directories of strangers": directories(arguments.directories, chance),
        "broken images": image_faults(arguments.images, chance),
        "full disks": full_disks(expected) + full_folders(),
        "W&B": wandb_faults(expected),
    }
    bad = 0
    for name, found in table.items():
        sys.stdout.write(f"\n{name}\n" + "".join(f"  {number:6d}  {what}\n" for what, number in sorted(found.items())))
        bad += sum(number for what, number in found.items() if what.startswith(("FAILED", "lost")))
    sys.stdout.write(f"\n{bad} failures in all; seed {arguments.seed}\n")
    if not arguments.keep:
        with suppress(OSError):
            shutil.rmtree(folder)
    sys.exit(bool(bad))


main()
