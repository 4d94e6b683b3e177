#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A minute of random actions on running guests, of one seed: `make test-chaos` takes others.
#
# With all of the machine's CPUs in one thread: with one thread each, a guest dies in about
# one run of eight (see Limits in README.md), which is to be found by make test-chaos.
exec tests/machine/run --one-thread --timeout 400 --dmesg build/tests/dmesg.chaos \
	--append 'printk.devkmsg=on log_buf_len=4M' -- tests/chaos/chaos.py --seconds 60 --seed 1
