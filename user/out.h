/* SPDX-License-Identifier: GPL-2.0 */
/* Errors, and what is said to people. */
#ifndef __KVMEXT_OUT_H
#define __KVMEXT_OUT_H

#include "base.h"

/*
 * out_init - before anything is printed: which characters there are; @alone is the name of a
 * program that is one command, NULL for kvmext
 */
void out_init(const char *alone);
/* program_name - kvmext, or that */
const char *program_name(void);
/* called - how the user calls a command: "kvmext CMD", or that program */
const char *called(const char *cmd);
/* out_utf8 - the user's locale says that the terminal shows UTF-8 */
bool out_utf8(void);
/**
 * fail - report an error; only the first of a process is
 * @code: what kind
 * @hint: what to do next, or NULL
 * @fmt: what was tried and what was found
 *
 * Return: @code, so that a caller can return it on.
 */
int fail(enum code code, const char *hint, const char *fmt, ...) __printf(3, 4);
int fail_usage(const char *cmd, const char *fmt, ...) __printf(2, 3);
/* fail_mute - while on, nothing is reported; returns what it was */
bool fail_mute(bool mute);
/* fail_count - how often this process failed so far */
int fail_count(void);
/* say - a line for people about what was done; silent with --quiet and --json */
void say(const char *fmt, ...) __printf(1, 2);
/* print - like printf, for all that has others' texts in it */
void print(const char *fmt, ...) __printf(1, 2);

#endif /* __KVMEXT_OUT_H */
