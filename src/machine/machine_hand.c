/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a machine hands over beside its memory, machine_hand.h.
 *
 *	{"version": 1, "kernel": FD, "initrd": FD, "serial": {…}, "devices": [{…}, …]}
 *
 * Devices are in the order of the configuration. What is in each is the device's
 * (virtio_device_ops.share).
 */
#include "machine/machine_hand.h"

#include <errno.h>
#include <sys/stat.h>

#include "base/log.h"
#include "machine/machine_private.h"
#include "virtio/handed.h"

#define DOCUMENT_MAX (1 << 20) /* bytes */

/*
 * Devices that the machine makes by itself come behind those of the configuration, and have
 * nothing.
 */
static struct error *share_devices(struct machine *machine, json_t *list)
{
	for (uint32_t i = 0; i < machine->config.device_count; i++) {
		json_t *object = json_object();

		json_array_append_new(list, object);
		TRY(virtio_device_share(machine->devices[i].device, object));
	}
	return NULL;
}

struct error *machine_hand_share(struct machine *machine, json_t *handed)
{
	json_t *serial = json_object(), *devices = json_array();

	json_object_set_new(handed, "version", json_integer(MACHINE_HANDED_VERSION));
	json_object_set_new(handed, "serial", serial);
	json_object_set_new(handed, "devices", devices);
	handed_put(handed, "kernel", machine->kernel.fd);
	handed_put(handed, "initrd", machine->initrd.fd);
	TRY(handed_put_chardev(serial, machine->serial_chardev));
	return share_devices(machine, devices);
}

void machine_hand_release_serial(struct machine *machine)
{
	chardev_release(machine->serial_chardev);
}

void machine_hand_take_serial(struct machine *machine)
{
	AUTO_ERROR struct error *error = chardev_take_over(machine->serial_chardev);

	if (error)
		log_error("the serial port has no input: %s", error_message(error));
}

void machine_hand_end(struct machine *machine)
{
	AUTO_ERROR struct error *error = machine_take_over(machine);

	if (error)
		log_error("not all devices were taken back: %s", error_message(error));
	machine_hand_take_serial(machine);
	chardev_unshare(machine->serial_chardev);
	for (uint32_t i = 0; i < machine->config.device_count; i++)
		error_free(virtio_device_share(machine->devices[i].device, NULL)); /* never fails */
}

/*
 * --- In the other process ----------------------------------------------------------------------
 */

static struct error *take_file(struct machine *machine, const char *name, const char *path,
			       struct boot_file *file)
{
	file->path = path;
	file->fd = handed_take(machine->config.handed, name);
	return file->fd < 0 ? error_new(EBADMSG, "the %s %s has not come along", name, path) : NULL;
}

struct error *machine_hand_take_files(struct machine *machine)
{
	const struct machine_config *config = &machine->config;

	TRY(take_file(machine, "kernel", config->kernel, &machine->kernel));
	return config->initrd ? take_file(machine, "initrd", config->initrd, &machine->initrd)
			      : NULL;
}

json_t *machine_hand_device(const struct machine *machine,
			    const struct machine_device_config *device)
{
	const struct machine_config *config = &machine->config;

	/* The machine's own devices are not among the configuration's. */
	if (device < config->devices || device >= config->devices + config->device_count)
		return NULL;
	return json_array_get(json_object_get(config->handed, "devices"),
			      (size_t)(device - config->devices));
}

struct error *machine_hand_read(int fd, json_t **result)
{
	AUTO_CLOSE int own = fd;
	AUTO_FREE char *text = NULL;
	json_error_t problem;
	struct stat status;
	json_t *handed;

	if (fstat(own, &status) < 0)
		return error_system(errno, "what is handed over");
	if (!S_ISREG(status.st_mode) || status.st_size > DOCUMENT_MAX)
		return error_new(EBADMSG, "what is handed over is not a file of at most %d bytes",
				 DOCUMENT_MAX);
	text = malloc((size_t)status.st_size + 1);
	if (!text)
		return error_system(ENOMEM, "what is handed over");
	if (pread(own, text, (size_t)status.st_size, 0) != status.st_size)
		return error_new(EIO, "what is handed over cannot be read");
	handed = json_loadb(text, (size_t)status.st_size, JSON_REJECT_DUPLICATES, &problem);
	if (json_integer_value(json_object_get(handed, "version")) != MACHINE_HANDED_VERSION) {
		json_decref(handed);
		return error_new(EBADMSG,
				 "what is handed over is not of version %d, which this "
				 "godwit understands",
				 MACHINE_HANDED_VERSION);
	}
	*result = handed;
	return NULL;
}
