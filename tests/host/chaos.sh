#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Half a minute of random actions on running guests, of one seed, does no harm. `make
# test-chaos` takes other seeds.
exec tests/machine/run --timeout 400 --dmesg build/tests/dmesg.chaos \
	--append 'printk.devkmsg=on log_buf_len=4M' -- tests/chaos/chaos.py --seconds 30 --seed 1
