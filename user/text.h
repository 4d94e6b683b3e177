/* SPDX-License-Identifier: GPL-2.0 */
/* Text: made, looked at, made harmless. Numbers and times as people read them. */
#ifndef __KVMEXT_TEXT_H
#define __KVMEXT_TEXT_H

#include <stdarg.h>

#include "base.h"

/* printable - take out what a terminal would obey, but for the characters in @keep */
void printable(char *s, const char *keep);
/* str - like asprintf, but never fails; the caller frees it, or the exit does */
char *str(const char *fmt, ...) __printf(1, 2);
/* vstr - the same of a list of arguments */
char *vstr(const char *fmt, va_list ap);
/**
 * utf8 - the character at the start of a text, in the locale that out_init() chose
 * @s: the text
 * @c: which it is, or the byte if it is none
 *
 * Longer forms than needed, halves of surrogate pairs and what is beyond Unicode are none.
 *
 * Return: its length in bytes, 0 if there is none.
 */
int utf8(const char *s, uint32_t *c);
/* text_width - how many columns of a terminal it takes; its bytes if that is not known */
int text_width(const char *s);
/* is_control - a terminal obeys it: a control, or it turns the direction of writing round */
bool is_control(uint32_t c);
/* nearest - the one of @n names that @s may have meant, or NULL */
const char *nearest(const char *s, const char *const *names, int n);
/* clock_ns - CLOCK_MONOTONIC */
uint64_t clock_ns(void);
/* duration - nanoseconds for people */
char *duration(uint64_t ns);
#define DURATION_LEN 32
/* duration_in - the same in @buf, which it returns */
const char *duration_in(char *buf, size_t size, uint64_t ns);
/* value_text - an integer, or on or off */
char *value_text(s128 v, bool is_bool);

#endif /* __KVMEXT_TEXT_H */
