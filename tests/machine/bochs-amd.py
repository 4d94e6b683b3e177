# SPDX-License-Identifier: GPL-2.0
"""The other AMD machine: Bochs's emulation of SVM, with nested paging and nrip-save.

QEMU's has no nrip-save, without which KVM handles no exit in the fastpath.  All else is as
with the Intel machine.  It has no AVIC.
"""
import functools

import intel
from intel import BOOT_MODULES, CHATTY, HAS_NOT, MEM, PORTS, channel, cpus, kmod  # noqa: F401

KVM_MODULE = "kvm-amd"
KMOD = {}
MAKE = "make"
command = functools.partial(intel.command, model="ryzen")
