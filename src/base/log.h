/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Log lines on standard error: "godwit[NAME] level: text". Safe from any thread; a line is one
 * write. Control characters in it become '?', as in errors.
 */
#ifndef GODWIT_BASE_LOG_H
#define GODWIT_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Lines above @level are dropped (default: warning). Call before other threads start. */
void log_set_level(enum log_level level);
/* The name put in each line, copied; call before other threads start. */
void log_set_name(const char *name);
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...)	 log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)	 log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)	 log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* Lets something through at most once per second; zero it before first use. For what a guest can repeat. */
struct rate_limit {
	int64_t next_ns;
};
bool rate_limit_pass(struct rate_limit *limit);

#endif
