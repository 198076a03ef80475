/* SPDX-License-Identifier: BSD-2-Clause */
/* See qmp_descriptors.h. A client controls how many there are, and what they lead to. */
#include "control/qmp_descriptors.h"

#include <string.h>

void qmp_descriptors_add(struct qmp_descriptors *descriptors, int fd)
{
	if (descriptors->waiting_count == QMP_DESCRIPTORS_WAITING)
		close(fd);
	else
		descriptors->waiting[descriptors->waiting_count++] = fd;
}

/* The place of @name (NULL: a free one), or -1. */
static int find(const struct qmp_descriptors *descriptors, const char *name)
{
	for (int i = 0; i < QMP_DESCRIPTORS_NAMED; i++) {
		const char *other = descriptors->named[i].name;

		if (name ? other && strcmp(other, name) == 0 : !other)
			return i;
	}
	return -1;
}

static void forget(struct qmp_descriptors *descriptors, int place)
{
	close_fd(&descriptors->named[place].fd);
	free(TAKE_PTR(descriptors->named[place].name));
}

/* The oldest that has no name yet, the caller's from now on, or -1. */
static int take_oldest(struct qmp_descriptors *descriptors)
{
	int fd;

	if (!descriptors->waiting_count)
		return -1;
	fd = descriptors->waiting[0];
	descriptors->waiting_count--;
	memmove(descriptors->waiting, descriptors->waiting + 1,
		descriptors->waiting_count * sizeof(descriptors->waiting[0]));
	return fd;
}

struct error *qmp_descriptors_name(struct qmp_descriptors *descriptors, const char *name)
{
	/* Refused or not: the next name is for the next one. */
	AUTO_CLOSE int fd = take_oldest(descriptors);
	int place = find(descriptors, name);
	char *copy;

	if (!*name || (*name >= '0' && *name <= '9'))
		return error_usage("fdname '%s': a name must not be empty or begin with a digit",
				   name);
	if (fd < 0)
		return error_usage("no file descriptor came with the message (SCM_RIGHTS)");
	if (place >= 0)
		forget(descriptors, place);
	else
		place = find(descriptors, NULL);
	if (place < 0)
		return error_new(EMFILE, "%d file descriptors have names already",
				 QMP_DESCRIPTORS_NAMED);
	copy = strdup(name);
	if (!copy)
		return error_system(ENOMEM, "fdname");
	descriptors->named[place].name = copy;
	descriptors->named[place].fd = TAKE_FD(fd);
	return NULL;
}

struct error *qmp_descriptors_take(struct qmp_descriptors *descriptors, const char *name, int *fd)
{
	int place = find(descriptors, name);

	if (place < 0)
		return error_new(ENOENT,
				 "no file descriptor has the name '%s': 'getfd' gives names, to "
				 "those of the same connection",
				 name);
	*fd = TAKE_FD(descriptors->named[place].fd);
	forget(descriptors, place);
	return NULL;
}

void qmp_descriptors_clear(struct qmp_descriptors *descriptors)
{
	for (int i = 0; i < QMP_DESCRIPTORS_NAMED; i++)
		if (descriptors->named[i].name)
			forget(descriptors, i);
	while (descriptors->waiting_count)
		close(descriptors->waiting[--descriptors->waiting_count]);
}
