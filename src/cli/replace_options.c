/* SPDX-License-Identifier: BSD-2-Clause */
/* See replace_options.h. Everything comes from the person at the command line. */
#include "cli/replace_options.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/options.h"
#include "virtio/vhost_user_device.h"

static struct error *replace_text(char **text, const char *by)
{
	if (!by)
		return NULL;
	free(*text);
	*text = strdup(by);
	return *text ? NULL : error_system(ENOMEM, "options");
}

/* The id in a device's text, in @id; empty if it has none. */
static struct error *id_of(const char *text, char *id, size_t size)
{
	AUTO_OPTIONS struct options *parsed = NULL;

	TRY(options_parse(text, "value", &parsed));
	snprintf(id, size, "%s", options_take(parsed, "id") ?: "");
	return NULL;
}

/* The @index-th device of @kind, or the one with @id if that is not empty. */
static struct error *find_device(struct machine_config *config, const char *source,
				 const char *kind, uint32_t index, const char *id,
				 struct machine_device_config **device)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < config->device_count; i++) {
		char own[64], usual[64];

		if (strcmp(config->devices[i].kind, kind) != 0)
			continue;
		TRY(id_of(config->devices[i].text, own, sizeof(own)));
		/* As their constructors have it. */
		snprintf(usual, sizeof(usual),
			 count || !vhost_user_device_wanted(config->devices[i].text) ||
				 !strcmp(kind, "net")
			     ? "%s%u"
			     : "%s",
			 kind, count);
		*device = &config->devices[i];
		if (*id ? strcmp(id, *own ? own : usual) == 0 : count == index)
			return NULL;
		count++;
	}
	if (*id)
		return error_usage("--%s: %s has none with id=%s", kind, source, id);
	return error_usage("--%s: %s has %u of them, and this is one more", kind, source, count);
}

/* The state of a device fits one of the same kind only. */
static struct error *check_back_end(const char *kind, const char *old, const char *text)
{
	if (vhost_user_device_wanted(text) && !vhost_user_device_wanted(old))
		return error_usage("--%s: %s is the device of a back-end, which cannot take over "
				   "the state of another one: give what it was saved with, or a "
				   "copy",
				   kind, text);
	if (!vhost_user_device_wanted(text) && vhost_user_device_wanted(old))
		return error_usage("--%s: %s cannot take over the state of a back-end's device: "
				   "give vhost-user:SOCKET",
				   kind, text);
	return NULL;
}

/* The new text keeps the old id, which is part of what the guest's state hangs on. */
static struct error *replace_device(struct machine_config *config, const char *source,
				    const char *kind, uint32_t index, const char *text)
{
	struct machine_device_config *device = NULL;
	AUTO_FREE char *whole = NULL;
	char id[64], old[64];

	TRY(error_prefix(id_of(text, id, sizeof(id)), "--%s", kind));
	TRY(find_device(config, source, kind, index, id, &device));
	TRY(check_back_end(kind, device->text, text));
	TRY(id_of(device->text, old, sizeof(old)));
	if (*id || !*old)
		return replace_text(&device->text, text);
	if (asprintf(&whole, "%s,id=%s", text, old) < 0)
		return error_system(ENOMEM, "options");
	return replace_text(&device->text, whole);
}

static struct error *replace_devices(const struct cli_arguments *arguments, const char *source,
				     struct machine_config *config)
{
	static const char *const kinds[] = {"disk", "net", "fs", "vhost-user", "vsock", "console"};

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		const struct cli_given *given;
		uint32_t index = 0;
		int cursor = 0;

		while ((given = cli_next(arguments, kinds[i], &cursor)))
			TRY(replace_device(config, source, kinds[i], index++, given->value));
	}
	return NULL;
}

struct error *replace_options(const struct cli_arguments *arguments, const char *source,
			      struct machine_config *config)
{
	TRY(replace_text(&config->name, cli_value(arguments, "name", NULL)));
	TRY(replace_text(&config->kernel, cli_value(arguments, "kernel", NULL)));
	TRY(replace_text(&config->initrd, cli_value(arguments, "initrd", NULL)));
	TRY(replace_text(&config->serial, cli_value(arguments, "serial", NULL)));
	TRY(replace_devices(arguments, source, config));
	config->paused = cli_has(arguments, "paused");
	return NULL;
}
