/* SPDX-License-Identifier: GPL-2.0 */
/* What both programs, kvmext and kvmext-guest, do before and after a command. */
#ifndef __KVMEXT_PROGRAM_H
#define __KVMEXT_PROGRAM_H

/*
 * program_begin - before anything is parsed or said; @alone is the name of a program that is
 * one command, NULL for kvmext
 */
void program_begin(int argc, char **argv, const char *alone);
/* program_end - write out what is left; the exit code, which is @ret if that went well */
int program_end(int ret);

#endif /* __KVMEXT_PROGRAM_H */
