/* SPDX-License-Identifier: BSD-2-Clause */
/* Paths of a configuration, machine_config_paths.h. The operator controls all text. */
#include "machine/machine_config_paths.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "virtio/vsock_host.h"

#define SOCKET_PATH_MAX (sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1)

/* What a text is, or an option of a device. */
enum path_kind {
	PATH_NONE,
	PATH_FILE,
	PATH_SOCKET,
	PATH_VSOCK,    /* others have a port behind it */
	PATH_BACK_END, /* "file:PATH", "unix:PATH", "vhost-user:PATH" or something else */
	PATH_DISK,     /* "vhost-user:PATH" or a file */
};

static const struct {
	const char *device, *key;
	bool positional; /* the first word needs no key */
	enum path_kind kind;
} options[] = {
    {"disk", "path", true, PATH_DISK},	     {"net", "back-end", true, PATH_BACK_END},
    {"fs", "back-end", true, PATH_BACK_END}, {"vhost-user", "socket", false, PATH_SOCKET},
    {"vsock", "path", false, PATH_VSOCK},    {"console", "backend", true, PATH_BACK_END},
};

/* The text that @path of @kind is in @folder, to be freed, or NULL: it stays as it is. */
static char *make_absolute(enum path_kind kind, const char *path, const char *folder)
{
	static const struct {
		const char *text;
		enum path_kind kind;
	} prefixes[] = {{"file:", PATH_FILE}, {"unix:", PATH_SOCKET}, {"vhost-user:", PATH_SOCKET}};
	const char *prefix = "";
	size_t limit = SIZE_MAX;
	char *result;

	if (kind == PATH_DISK)
		kind = strncmp(path, "vhost-user:", 11) == 0 ? PATH_BACK_END : PATH_FILE;
	for (size_t i = 0; kind == PATH_BACK_END && i < ARRAY_SIZE(prefixes); i++) {
		size_t length = strlen(prefixes[i].text);

		if (strncmp(path, prefixes[i].text, length) != 0)
			continue;
		prefix = prefixes[i].text;
		path += length;
		kind = prefixes[i].kind;
	}
	if (kind == PATH_BACK_END)
		return NULL;
	if (kind == PATH_NONE || !*path || *path == '/')
		return NULL;
	if (kind == PATH_SOCKET || kind == PATH_VSOCK)
		limit = kind == PATH_SOCKET ? SOCKET_PATH_MAX : VSOCK_PATH_MAX;
	if (strlen(folder) + 1 + strlen(path) > limit)
		return NULL;
	if (asprintf(&result, "%s%s/%s", prefix, strcmp(folder, "/") == 0 ? "" : folder, path) < 0)
		return NULL;
	return result;
}

static void replace(json_t *object, const char *name, char *text)
{
	json_t *value = text ? json_string(text) : NULL;

	if (value)
		json_object_set_new(object, name, value);
	free(text);
}

static void replace_path(json_t *object, const char *name, enum path_kind kind, const char *folder)
{
	const char *text = json_string_value(json_object_get(object, name));

	if (text)
		replace(object, name, make_absolute(kind, text, folder));
}

/* What the option @word, the @index-th one, of @device is; its value is at *@value. */
static enum path_kind kind_of(const char *device, const char *word, size_t index,
			      const char **value)
{
	const char *equals = strchr(word, '=');

	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		size_t length = strlen(options[i].key);

		if (strcmp(options[i].device, device) != 0)
			continue;
		if (!equals && (index || !options[i].positional))
			continue;
		if (equals && ((size_t)(equals - word) != length ||
			       strncmp(word, options[i].key, length) != 0))
			continue;
		*value = equals ? equals + 1 : word;
		return options[i].kind;
	}
	return PATH_NONE;
}

/* "WORD,KEY=VALUE,…": base/options.h. */
static void replace_options(json_t *device, const char *folder)
{
	const char *kind = json_string_value(json_object_get(device, "kind"));
	const char *text = json_string_value(json_object_get(device, "options"));
	AUTO_FREE char *words = text ? strdup(text) : NULL;
	char *rest = words, *word;

	if (!kind || !words || strchr(folder, ','))
		return;
	for (size_t index = 0; (word = strsep(&rest, ",")); index++) {
		const char *value = NULL;
		enum path_kind path = kind_of(kind, word, index, &value);
		AUTO_FREE char *whole = path ? make_absolute(path, value, folder) : NULL;
		size_t before;
		char *result;

		if (!whole)
			continue;
		before = (size_t)(value - words);
		/* A device has one path, so that the rest of its text stays as it is. */
		if (asprintf(&result, "%.*s%s%s%s", (int)before, text, whole, rest ? "," : "",
			     rest ?: "") >= 0)
			replace(device, "options", result);
		return;
	}
}

static void replace_backings(json_t *list, const char *folder)
{
	json_t *item;
	size_t index;

	/* Read back as one option. */
	if (strchr(folder, ','))
		return;
	json_array_foreach (list, index, item) {
		replace_path(json_object_get(item, "memory"), "backing", PATH_BACK_END, folder);
	}
}

void machine_config_paths_from(json_t *config, const char *folder)
{
	json_t *devices = json_object_get(config, "devices"), *device;
	size_t index;

	replace_path(config, "kernel", PATH_FILE, folder);
	replace_path(config, "initrd", PATH_FILE, folder);
	replace_path(config, "serial", PATH_BACK_END, folder);
	replace_backings(json_object_get(config, "memory"), folder);
	replace_backings(json_object_get(config, "elastic"), folder);
	json_array_foreach (devices, index, device) {
		replace_options(device, folder);
	}
}
