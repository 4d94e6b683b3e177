# SPDX-License-Identifier: GPL-2.0
"""Where what was built and fetched is: build/config.mk and build/machine.mk."""
import os

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


def read_config(kernel="packaged"):
    """{name: value}; of the packaged kernel, of the debug kernel, or of an installed one's release.
    A file that is missing is FileNotFoundError, whose text says what to run."""
    suffix = "" if kernel == "packaged" else f"-{kernel}"
    cfg = {}
    for path, make in ((f"build/config{suffix}.mk", "make KERNEL=debug modules" if kernel == "debug" else "make"),
                       ("build/machine.mk", "make tests-build")):
        try:
            with open(os.path.join(TOP, path)) as f:
                cfg.update(l.rstrip("\n").split("=", 1) for l in f if "=" in l and l[0] != "#")
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} is missing; run {make} in {TOP} first") from None
    return cfg
