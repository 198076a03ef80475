/* SPDX-License-Identifier: BSD-2-Clause */
/* Descriptors in JSON, handed.h. */
#include "virtio/handed.h"

#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

static json_t *wrap(int fd)
{
	return json_pack("{s:i}", "fd", fd);
}

/* -1: @value is none, or not open. */
static int unwrap(const json_t *value)
{
	const json_t *number = json_object_get(value, "fd");
	json_int_t fd = json_integer_value(number);

	if (!json_is_integer(number) || fd <= STDERR_FILENO || fd > INT_MAX)
		return -1;
	return fcntl((int)fd, F_SETFD, FD_CLOEXEC) < 0 ? -1 : (int)fd;
}

void handed_put(json_t *object, const char *name, int fd)
{
	if (fd >= 0)
		json_object_set_new(object, name, wrap(fd));
}

int handed_take(json_t *object, const char *name)
{
	int fd = unwrap(json_object_get(object, name));

	json_object_del(object, name);
	return fd;
}

void handed_put_list(json_t *object, const char *name, const int *fds, uint32_t count)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < count; i++)
		json_array_append_new(list, wrap(fds[i]));
	json_object_set_new(object, name, list);
}

uint32_t handed_take_list(json_t *object, const char *name, int *fds, uint32_t maximum)
{
	const json_t *list = json_object_get(object, name);
	uint32_t count = 0;

	while (count < maximum && (fds[count] = unwrap(json_array_get(list, count))) >= 0)
		count++;
	json_object_del(object, name);
	return count;
}

struct error *handed_put_chardev(json_t *object, struct chardev *chardev)
{
	struct chardev_descriptors descriptors;

	TRY(chardev_share(chardev, &descriptors));
	handed_put(object, "in", descriptors.in);
	handed_put(object, "out", descriptors.out);
	handed_put(object, "listen", descriptors.listen);
	handed_put(object, "slave", descriptors.slave);
	handed_put(object, "kept", descriptors.kept);
	return NULL;
}

struct error *handed_take_chardev(json_t *object, const char *text, struct chardev **chardev)
{
	const struct chardev_descriptors descriptors = {
	    .in = handed_take(object, "in"),
	    .out = handed_take(object, "out"),
	    .listen = handed_take(object, "listen"),
	    .slave = handed_take(object, "slave"),
	    .kept = handed_take(object, "kept"),
	};

	return chardev_adopt(text, &descriptors, chardev);
}

bool handed_each(const json_t *value, bool (*each)(void *context, int fd), void *context)
{
	const json_t *number = json_object_get(value, "fd");
	const char *key;
	json_t *item;
	size_t index;

	if (json_is_integer(number))
		return each(context, (int)json_integer_value(number));
	json_object_foreach ((json_t *)value, key, item)
		if (!handed_each(item, each, context))
			return false;
	json_array_foreach ((json_t *)value, index, item)
		if (!handed_each(item, each, context))
			return false;
	return true;
}
