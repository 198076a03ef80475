/* SPDX-License-Identifier: BSD-2-Clause */
/* Log lines on standard error; one writev-free write per line so that lines of threads do not mix. */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"

static enum log_level log_limit = LOG_LEVEL_WARNING;
static char log_name[64];

void log_set_level(enum log_level level)
{
	log_limit = level;
}

void log_set_name(const char *name)
{
	snprintf(log_name, sizeof(log_name), "%s", name);
}

void log_write(enum log_level level, const char *format, ...)
{
	static const char *const names[] = {"error", "warning", "info", "debug"};
	int saved = errno;
	char line[1024];
	va_list arguments;
	int length;

	if (level > log_limit)
		return;
	length =
	    snprintf(line, sizeof(line),
		     log_name[0] ? "godwit[%s] %s: " : "godwit%s %s: ", log_name, names[level]);
	va_start(arguments, format);
	vsnprintf(line + length, sizeof(line) - (size_t)length - 1, format, arguments);
	va_end(arguments);
	text_make_printable(line);
	strcat(line, "\n");
	if (write(STDERR_FILENO, line, strlen(line)) < 0) {
		/* Nobody is left to tell. */
	}
	errno = saved;
}

bool rate_limit_pass(struct rate_limit *limit)
{
	int64_t now = clock_monotonic_ns();
	int64_t next = __atomic_load_n(&limit->next_ns, __ATOMIC_RELAXED);

	return now >= next &&
	       __atomic_compare_exchange_n(&limit->next_ns, &next, now + NS_PER_SECOND, false,
					   __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}
