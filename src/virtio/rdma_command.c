/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The control queue of the RDMA device: commands of the driver, one after the other.
 *
 * Runs on the device's loop. The guest controls every byte: a command is copied before it is looked at,
 * and is as long as its fixed part says before it is executed. What makes no sense is answered with a
 * status; a chain that cannot even be answered makes the device need a reset.
 */
#include <errno.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "virtio/rdma_private.h"

#define HEADER_SIZE 8U
#define ANSWER_MAX  QP_ATTRIBUTES_SIZE
#define BUFFERS_MAX (COMMAND_BUFFERS + 8) /* and some for buffers that cross regions */

void adapter_domain_free(struct virtio_rdma *rdma, struct adapter_object *object)
{
	struct adapter_domain *domain = CONTAINER_OF(object, struct adapter_domain, object);

	godwit_rdma_domain_destroy(domain->domain);
	adapter_numbers_remove(&rdma->domains, object);
	free(domain);
}

static uint32_t create_domain(struct virtio_rdma *rdma, const uint8_t *request, uint32_t size,
			      uint8_t *answer)
{
	struct adapter_domain *domain = calloc(1, sizeof(*domain));

	if (!domain)
		return ENOMEM;
	memcpy(domain->object.made, request, 8);
	if (!adapter_numbers_add(&rdma->domains, &domain->object) ||
	    godwit_rdma_domain_create(rdma->engine, &domain->domain)) {
		adapter_domain_free(rdma, &domain->object);
		return ENOMEM;
	}
	put_le32(answer + 8, domain->object.number);
	return 0;
}

static uint32_t destroy_domain(struct virtio_rdma *rdma, const uint8_t *request, uint32_t size,
			       uint8_t *answer)
{
	struct adapter_object *object = adapter_numbers_find(&rdma->domains, get_le32(request + 8));
	struct adapter_domain *domain;
	int result;

	if (!object)
		return ENOENT;
	domain = CONTAINER_OF(object, struct adapter_domain, object);
	result = godwit_rdma_domain_destroy(domain->domain);
	if (result)
		return (uint32_t)-result;
	domain->domain = NULL;
	adapter_domain_free(rdma, object);
	return 0;
}

static uint32_t set_gid(struct virtio_rdma *rdma, const uint8_t *request, uint32_t size,
			uint8_t *answer)
{
	static const uint8_t none[16];
	uint32_t index = get_le32(request + 8);

	if (index >= GIDS_MAX || !memcmp(request + 16, none, sizeof(none)))
		return EINVAL;
	virtio_rdma_set_gid(rdma, index, request + 16);
	return 0;
}

static uint32_t delete_gid(struct virtio_rdma *rdma, const uint8_t *request, uint32_t size,
			   uint8_t *answer)
{
	static const uint8_t none[16];
	uint32_t index = get_le32(request + 8);

	if (index >= GIDS_MAX)
		return EINVAL;
	virtio_rdma_set_gid(rdma, index, none);
	return 0;
}

static const struct {
	adapter_command *execute;
	uint32_t request, answer; /* bytes, of the request at least */
} commands[] = {
    [COMMAND_CREATE_PD] = {create_domain, 8, 16},
    [2] = {destroy_domain, 12, 8},
    [COMMAND_CREATE_CQ] = {adapter_completions_create, 16, 16},
    [4] = {adapter_completions_destroy, 12, 8},
    [COMMAND_CREATE_SRQ] = {adapter_shared_create, 32, 16},
    [6] = {adapter_shared_modify, 16, 8},
    [7] = {adapter_shared_query, 12, 16},
    [8] = {adapter_shared_destroy, 12, 8},
    [COMMAND_CREATE_QP] = {adapter_pair_create, 64, 16},
    [10] = {adapter_pair_modify, QP_ATTRIBUTES_SIZE, 8},
    [11] = {adapter_pair_query, 12, QP_ATTRIBUTES_SIZE},
    [12] = {adapter_pair_destroy, 12, 8},
    [COMMAND_CREATE_MR] = {adapter_region_create, 48, 16},
    [14] = {adapter_region_extend, 16, 8},
    [15] = {adapter_region_destroy, 12, 8},
    [COMMAND_CREATE_MW] = {adapter_window_create, 16, 16},
    [17] = {adapter_window_destroy, 12, 8},
    [18] = {set_gid, 32, 8},
    [19] = {delete_gid, 12, 8},
};

uint32_t adapter_command_execute(struct virtio_rdma *rdma, const uint8_t *request, uint32_t size)
{
	uint8_t answer[ANSWER_MAX];

	return commands[get_le32(request)].execute(rdma, request, size, answer);
}

/* Executes the command of @chain. False: it cannot be answered. */
static bool execute(struct virtio_rdma *rdma, struct virtqueue_chain *chain, uint32_t *written)
{
	uint8_t answer[ANSWER_MAX] = {0};
	uint32_t number, size, status;

	if (chain->out_size < HEADER_SIZE || chain->out_size > COMMAND_MAX ||
	    chain->in_size < HEADER_SIZE)
		return false;
	size = (uint32_t)chain->out_size;
	if (!virtqueue_chain_read(chain, 0, rdma->command, size))
		return false;
	number = get_le32(rdma->command);
	*written = HEADER_SIZE;
	if (number >= ARRAY_SIZE(commands) || !commands[number].execute)
		status = EOPNOTSUPP;
	else if (size < commands[number].request || chain->in_size < commands[number].answer)
		status = EINVAL;
	else
		status = commands[number].execute(rdma, rdma->command, size, answer);
	if (!status)
		*written = commands[number].answer;
	else
		rdma->refused_commands++;
	put_le32(answer, status);
	rdma->commands++;
	return virtqueue_chain_write(chain, 0, answer, *written);
}

void adapter_commands_run(struct virtio_rdma *rdma)
{
	struct virtio_device *device = &rdma->device;
	struct virtqueue *ring = &device->queues[QUEUE_CONTROL].ring;
	struct iovec buffers[BUFFERS_MAX];
	struct virtqueue_chain chain = {.iov = buffers, .iov_max = BUFFERS_MAX};

	do {
		virtqueue_notifications(ring, false);
		while (virtio_device_running(device) && virtqueue_pop(ring, &chain) > 0) {
			uint32_t written = 0;

			if (!execute(rdma, &chain, &written)) {
				virtqueue_discard(ring, &chain);
				virtio_device_needs_reset(device, "a command has no room for its "
								  "status, or is too long");
				return;
			}
			virtqueue_push(ring, &chain, written);
		}
		virtqueue_notify(ring);
	} while (virtio_device_running(device) && virtqueue_notifications(ring, true));
}
