/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The stream of an RDMA device: what is refused leaves a device that can be destroyed, and what is taken
 * one that can go on, be saved again and be reset.
 */
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/checked.h"
#include "virtio/rdma.h"
#include "virtio_fuzz.h"

static uint8_t *reserve(void *context, const struct godwit_rdma_ends *ends, uint32_t size)
{
	return context;
}

static void commit(void *context)
{
}

static uint32_t receive(void *context, struct godwit_rdma *engine, int64_t now)
{
	return 0;
}

static bool waits(void *context)
{
	return false;
}

static bool sends_from(void *context, const uint8_t address[16])
{
	return true;
}

static void close_port(void *context)
{
	free(context);
}

static struct error *forget(void *context, const void *bytes, size_t size)
{
	return NULL;
}

/* As a machine that was loaded. */
static void go_on(struct virtio_device *device)
{
	virtio_fuzz_check(device->stream->save(device, true, forget, NULL));
	device->driver_features = device->features;
	device->status = 0xf;
	device->active = true;
	virtio_device_resume(device);
	virtio_device_quiesce(device);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
	struct virtio_rdma_port port = {.name = "none",
					.packets = {.reserve = reserve, .commit = commit},
					.receive = receive,
					.waits = waits,
					.sends_from = sends_from,
					.close = close_port};
	struct virtio_device *device;
	struct virtio_fuzz fuzz;
	struct error *error;
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	port.fd = fd;
	port.context = port.packets.context = malloc(GODWIT_RDMA_PACKET_MAX);
	if (fd < 0 || !port.context)
		abort();
	virtio_fuzz_setup(&fuzz);
	virtio_fuzz_check(virtio_rdma_create("rdma", mac, &port, &device));
	virtio_fuzz_attach(&fuzz, device);
	virtio_device_quiesce(device);
	error = device->stream->load(device, data, size, true);
	if (!error)
		go_on(device);
	error_free(error);
	virtio_device_set_status(device, 0);
	virtio_device_destroy(device);
	virtio_fuzz_teardown(&fuzz);
	close(fd);
	return 0;
}
