/* SPDX-License-Identifier: GPL-2.0 */
/* What libbpf and the verifier said since the last clear. */
#ifndef __KVMEXT_LOG_H
#define __KVMEXT_LOG_H

void log_init(void);
void log_clear(void);
const char *log_text(void);
/* log_line - the first line that has @key in it, without "libbpf: "; or NULL */
char *log_line(const char *key);
/* log_word - what stands between @before and the next of @ends; or NULL */
char *log_word(const char *before, const char *ends);
/*
 * log_last - the last line that says something, without "libbpf: "; or NULL
 *
 * On every way out of a load libbpf adds that it failed, which says nothing.
 */
char *log_last(void);
/* log_verdict - the verifier's: the last line of its log that is no statistics; or NULL */
char *log_verdict(void);

#endif /* __KVMEXT_LOG_H */
