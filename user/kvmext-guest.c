// SPDX-License-Identifier: GPL-2.0
/*
 * kvmext-guest: kvmext guest as a program of its own, for guests. It needs neither ncurses
 * nor libsmartcols.
 */
#include "args.h"
#include "commands.h"
#include "program.h"

int main(int argc, char **argv)
{
	program_begin(argc, argv, "kvmext-guest");
	args_page("free");
	return program_end(cmd_guest(argc, argv));
}
