/* SPDX-License-Identifier: BSD-2-Clause */
/* The option strings of options.h. The user controls every byte of the text. */
#include "base/options.h"

#include <string.h>

#include "base/size.h"

#define OPTIONS_MAX 32

struct option_entry {
	char *key;
	char *value;
	bool taken;
};

struct options {
	struct option_entry entries[OPTIONS_MAX];
	int count;
	char known[512]; /* the keys asked for so far, for the message about an unknown one */
};

static struct error *add_entry(struct options *options, const char *key, const char *value)
{
	struct option_entry *entry = &options->entries[options->count];

	for (int i = 0; i < options->count; i++)
		if (strcmp(options->entries[i].key, key) == 0)
			return error_usage("'%s' is given twice", key);
	if (options->count == OPTIONS_MAX)
		return error_usage("more than %d options in one argument", OPTIONS_MAX);
	entry->key = strdup(key);
	entry->value = strdup(value);
	options->count++;
	if (!entry->key || !entry->value)
		return error_system(ENOMEM, "option '%s'", key);
	return NULL;
}

struct error *options_parse(const char *text, const char *positional, struct options **result)
{
	AUTO_OPTIONS struct options *options = calloc(1, sizeof(*options));
	AUTO_FREE char *copy = strdup(text);
	char *cursor = copy;
	char *element;
	bool first = true;

	if (!options || !copy)
		return error_system(ENOMEM, "options '%s'", text);
	while ((element = strsep(&cursor, ",")) != NULL) {
		char *equals = strchr(element, '=');

		if (!*element)
			return error_usage("empty element in '%s'", text);
		if (equals) {
			*equals = '\0';
			TRY(add_entry(options, element, equals + 1));
		} else if (first && positional) {
			TRY(add_entry(options, positional, element));
		} else {
			TRY(add_entry(options, element, "on"));
		}
		first = false;
	}
	*result = TAKE_PTR(options);
	return NULL;
}

void options_free(struct options *options)
{
	if (!options)
		return;
	for (int i = 0; i < options->count; i++) {
		free(options->entries[i].key);
		free(options->entries[i].value);
	}
	free(options);
}

const char *options_take(struct options *options, const char *key)
{
	size_t used = strlen(options->known);

	snprintf(options->known + used, sizeof(options->known) - used, "%s%s", used ? ", " : "",
		 key);
	for (int i = 0; i < options->count; i++) {
		if (strcmp(options->entries[i].key, key) == 0) {
			options->entries[i].taken = true;
			return options->entries[i].value;
		}
	}
	return NULL;
}

struct error *options_take_size(struct options *options, const char *key, uint64_t *value)
{
	const char *text = options_take(options, key);

	return text ? error_prefix(size_parse(text, value), "%s", key) : NULL;
}

struct error *options_take_number(struct options *options, const char *key, uint64_t maximum,
				  uint64_t *value)
{
	const char *text = options_take(options, key);

	return text ? error_prefix(number_parse(text, maximum, value), "%s", key) : NULL;
}

struct error *options_take_bool(struct options *options, const char *key, bool *value)
{
	const char *text = options_take(options, key);

	if (!text)
		return NULL;
	if (strcmp(text, "on") != 0 && strcmp(text, "off") != 0)
		return error_usage("%s: '%s' is neither 'on' nor 'off'", key, text);
	*value = strcmp(text, "on") == 0;
	return NULL;
}

struct error *options_finish(struct options *options)
{
	for (int i = 0; i < options->count; i++)
		if (!options->entries[i].taken)
			return error_usage("unknown option '%s': known are %s",
					   options->entries[i].key, options->known);
	return NULL;
}
