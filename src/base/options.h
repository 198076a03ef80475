/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Option strings of the form "VALUE,key=value,flag". A reader takes what it knows and then asks for
 * what is left over, so that an unknown key is refused by name.
 */
#ifndef GODWIT_BASE_OPTIONS_H
#define GODWIT_BASE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct options;

/*
 * Splits @text. @positional is the key given to a first element without '=' (NULL: none is
 * allowed); later elements without '=' get the value "on". A key given twice is an error. Keys and
 * values are copied. *@options is freed with options_free.
 */
struct error *options_parse(const char *text, const char *positional,
			    struct options **options) MUST_CHECK;
void options_free(struct options *options);
DEFINE_CLEANUP(options, struct options *, options_free)
#define AUTO_OPTIONS AUTO(cleanup_options)

/* The value of @key, valid as long as @options, or NULL; marks the key as known. */
const char *options_take(struct options *options, const char *key);
/* The same with a conversion; *value is left alone when the key is absent. Errors name the key. */
struct error *options_take_size(struct options *options, const char *key,
				uint64_t *value) MUST_CHECK;
struct error *options_take_number(struct options *options, const char *key, uint64_t maximum,
				  uint64_t *value) MUST_CHECK;
struct error *options_take_bool(struct options *options, const char *key, bool *value) MUST_CHECK;
/* An error that names the first key nobody took and the ones that could be; NULL when all were taken. */
struct error *options_finish(struct options *options) MUST_CHECK;

#endif
