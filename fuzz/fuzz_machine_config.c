/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The configuration in a snapshot, which whoever made the file controls: whatever it says is
 * refused, or is a configuration that goes into a file and comes back as the same text.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "machine/machine_config_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The text of @config, sorted. */
static char *text_of(const struct machine_config *config)
{
	json_t *json = machine_config_to_json(config);
	char *text = json ? json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

	json_decref(json);
	return text;
}

static void check_way_back(const struct machine_config *config)
{
	struct machine_config again;
	char *text = text_of(config), *text_again;
	json_t *json;

	assert(text);
	json = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	assert(json);
	if (machine_config_from_json(json, &again))
		abort();
	text_again = text_of(&again);
	assert(text_again && strcmp(text, text_again) == 0);
	machine_config_clear(&again);
	json_decref(json);
	free(text);
	free(text_again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	json_t *json = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
	struct machine_config *config;
	struct error *error;

	if (!json)
		return 0;
	config = calloc(1, sizeof(*config));
	if (!config)
		abort();
	error = machine_config_from_json(json, config);
	json_decref(json);
	if (!error)
		check_way_back(config);
	error_free(error);
	machine_config_clear(config);
	free(config);
	return 0;
}
