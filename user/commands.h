/* SPDX-License-Identifier: GPL-2.0 */
/* The commands: each parses its own arguments and returns a code. */
#ifndef __KVMEXT_COMMANDS_H
#define __KVMEXT_COMMANDS_H

int cmd_dirty(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_get(int argc, char **argv);
int cmd_guest(int argc, char **argv);
int cmd_help(int argc, char **argv);
int cmd_hint(int argc, char **argv);
int cmd_hist(int argc, char **argv);
int cmd_list(int argc, char **argv);
int cmd_load(int argc, char **argv);
int cmd_mark(int argc, char **argv);
int cmd_set(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_steer(int argc, char **argv);
int cmd_switch(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_trace(int argc, char **argv);
int cmd_unload(int argc, char **argv);
int cmd_unmark(int argc, char **argv);
int cmd_version(int argc, char **argv);

#endif /* __KVMEXT_COMMANDS_H */
