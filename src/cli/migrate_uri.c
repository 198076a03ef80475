/* SPDX-License-Identifier: BSD-2-Clause */
/* See migrate_uri.h. Everything comes from the person at the command line. */
#include "cli/migrate_uri.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/size.h"

/* The VM's process has a working folder of its own. */
static struct error *open_unix(struct migrate_uri *uri, const char *path)
{
	char folder[PATH_MAX] = "";

	if (*path != '/' && !getcwd(folder, sizeof(folder)))
		return error_system(errno, "cannot tell the current folder");
	if ((size_t)snprintf(uri->text, sizeof(uri->text), "unix:%s%s%s", folder,
			     *folder ? "/" : "", path) >= sizeof(uri->text))
		return error_new(ENAMETOOLONG, "the name '%s' is too long", path);
	return NULL;
}

static struct error *pass(struct migrate_uri *uri, struct qmp_client *client, uint32_t index,
			  int fd)
{
	size_t used = strlen(uri->text);
	char name[24];

	snprintf(name, sizeof(name), "migrate%u", index);
	snprintf(uri->text + used, sizeof(uri->text) - used, "%s%s", index ? "+" : "fd:", name);
	return qmp_client_pass(client, fd, name);
}

static struct error *check_channels(const char *given, uint32_t channels)
{
	return channels > MIGRATE_URI_MAX ? error_usage("--channels %u: %s can have up to %d",
							channels, given, MIGRATE_URI_MAX)
					  : NULL;
}

/* One command a connection, which $GODWIT_CHANNEL tells apart. */
static struct error *open_commands(struct migrate_uri *uri, const char *command, uint32_t channels,
				   bool postcopy, struct qmp_client *client)
{
	uint32_t count = channels + postcopy;

	TRY(check_channels(uri->given, count));
	if (!*command)
		return error_usage("exec: lacks a command");
	for (uint32_t i = 0; i <= count; i++) {
		AUTO_CLOSE int fd = -1;
		char number[16] = "main";

		if (i > channels)
			snprintf(number, sizeof(number), "postcopy");
		else if (i)
			snprintf(number, sizeof(number), "%u", i - 1);
		if (setenv("GODWIT_CHANNEL", number, 1) < 0)
			return error_system(errno, "exec");
		TRY(child_start(command, CHILD_BOTH, &fd, &uri->children[i]));
		uri->count = i + 1;
		TRY(pass(uri, client, i, fd));
	}
	return NULL;
}

static struct error *open_descriptors(struct migrate_uri *uri, const char *numbers,
				      uint32_t channels, struct qmp_client *client)
{
	TRY(check_channels(uri->given, channels));
	for (uint32_t i = 0;; i++) {
		size_t length = strcspn(numbers, "+");
		AUTO_FREE char *number = strndup(numbers, length);
		uint64_t fd = 0;

		if (!number)
			return error_system(ENOMEM, "%s", uri->given);
		if (i > MIGRATE_URI_MAX)
			return check_channels(uri->given, i);
		TRY(error_prefix(number_parse(number, INT_MAX, &fd), "%s", uri->given));
		TRY(error_prefix(pass(uri, client, i, (int)fd), "%s", uri->given));
		if (!numbers[length] && i < channels)
			return error_usage("%s has %u descriptors, and %u channels need %u",
					   uri->given, i + 1, channels, channels + 1);
		if (!numbers[length])
			return NULL;
		numbers += length + 1;
		if (strncmp(numbers, "fd:", 3) == 0)
			numbers += 3;
	}
}

struct error *migrate_uri_open(struct migrate_uri *uri, const char *given, uint32_t channels,
			       bool postcopy, struct qmp_client *client)
{
	uri->given = given;
	if (strncmp(given, "unix:", 5) == 0)
		return open_unix(uri, given + 5);
	if (strncmp(given, "exec:", 5) == 0)
		return open_commands(uri, given + 5, channels, postcopy, client);
	if (strncmp(given, "fd:", 3) == 0)
		return open_descriptors(uri, given + 3, channels + postcopy, client);
	if ((size_t)snprintf(uri->text, sizeof(uri->text), "%s", given) >= sizeof(uri->text))
		return error_usage("'%.64s…' is too long for an address", given);
	return NULL;
}

void migrate_uri_close(struct migrate_uri *uri)
{
	for (uint32_t i = 0; i < uri->count; i++)
		child_end(TAKE_PTR(uri->children[i]));
	uri->count = 0;
}
