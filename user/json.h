/* SPDX-License-Identifier: GPL-2.0 */
/* JSON on stdout. */
#ifndef __KVMEXT_JSON_H
#define __KVMEXT_JSON_H

#include "base.h"

/* A JSON document on stdout: key is NULL at the top and in arrays. */
void j_open(const char *key, char bracket);
void j_close(char bracket);
void j_str(const char *key, const char *val);
void j_num(const char *key, s128 val);
void j_bool(const char *key, bool val);
void j_real(const char *key, double val);
/* j_lines - from now on each document is one line */
void j_lines(void);
/* j_unwind - back to the outermost object of the document; opens one if there is none */
void j_unwind(void);

#endif /* __KVMEXT_JSON_H */
