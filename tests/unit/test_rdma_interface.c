/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The RDMA device and the structures of its Linux driver: that both mean the same bytes.
 */
#include "../../guest/virtio_rdma/virtio_rdma.h"

#include <rdma/ib_user_verbs.h>
#include <rdma/rdma_user_rxe.h>

#include "rdma_device.h"
#include "virtio/rdma_private.h"

#define FIRST_PSN 0xabcdefU

static void the_configuration_is_the_drivers(void **state)
{
	struct virtio_rdma_config config;
	uint32_t words[sizeof(config) / 4];
	struct guest guest;

	(void)state;
	guest_create(&guest);
	for (uint32_t i = 0; i < ARRAY_SIZE(words); i++)
		words[i] = htole32((uint32_t)driver_read_config(&guest.driver, i * 4, 4));
	memcpy(&config, words, sizeof(config));
	assert_memory_equal(config.mac, "\x52\x54\x00\x01\x02\x03", 6);
	assert_int_equal(le16toh(config.gids), GIDS_MAX);
	assert_int_equal(le32toh(config.status), VIRTIO_RDMA_S_PORT_UP);
	assert_int_equal(le32toh(config.max_mtu), 4096);
	assert_int_equal(le32toh(config.max_cq), COMPLETIONS_MAX);
	assert_int_equal(le32toh(config.max_srq), SHARED_MAX);
	assert_int_equal(le32toh(config.max_pd), DOMAINS_MAX);
	assert_int_equal(le32toh(config.max_mr), REGIONS_MAX);
	assert_int_equal(le32toh(config.max_queue_slots), QUEUE_SLOTS_MAX);
	assert_int_equal(le32toh(config.max_cq_slots), CQ_SLOTS_MAX);
	assert_int_equal(le32toh(config.max_sge), SEGMENTS_MAX);
	assert_int_equal(le32toh(config.max_inline), INLINE_MAX);
	assert_int_equal(le32toh(config.max_fast_pages), FAST_PAGES_MAX);
	assert_int_equal(le32toh(config.max_command), COMMAND_MAX);
	assert_int_equal(le32toh(config.max_message), GODWIT_RDMA_MESSAGE_MAX);
	guest_destroy(&guest);
}

/* Makes a queue pair as the driver does. */
static uint32_t driver_makes_a_pair(struct guest *guest)
{
	struct virtio_rdma_create_qp *request = (void *)new_command(guest, VIRTIO_RDMA_CREATE_QP);

	guest->sq = new_queue(guest, SLOTS, SEND_STRIDE);
	guest->rq = new_queue(guest, SLOTS, RECEIVE_STRIDE);
	request->pdn = htole32(guest->pd);
	request->type = VIRTIO_RDMA_QP_RC;
	request->flags = VIRTIO_RDMA_QP_F_SIGNAL_ALL;
	request->send_cqn = request->receive_cqn = htole32(guest->cqn);
	request->send_slots = request->receive_slots = htole32(SLOTS);
	request->send_stride = htole32(SEND_STRIDE);
	request->send_sge = htole32(SEND_SGE);
	request->send_inline = htole32(SEND_INLINE);
	request->receive_stride = htole32(RECEIVE_STRIDE);
	request->receive_sge = htole32(RECEIVE_SGE);
	request->send_run_count = request->receive_run_count = htole32(1);
	request->runs[0].address = htole64(guest->sq.address);
	request->runs[0].length = htole64(queue_size(&guest->sq));
	request->runs[1].address = htole64(guest->rq.address);
	request->runs[1].length = htole64(queue_size(&guest->rq));
	return make(guest, sizeof(*request) + 2 * sizeof(request->runs[0]));
}

static uint32_t driver_modifies(struct guest *guest, uint8_t to, uint32_t mask)
{
	struct virtio_rdma_qp *request = (void *)new_command(guest, VIRTIO_RDMA_MODIFY_QP);

	request->qpn = htole32(guest->qpn);
	request->mask = htole32(mask);
	request->state = to;
	request->path_mtu = 4;
	request->timeout = 15;
	request->retry_count = 5;
	request->rnr_retry = 6;
	request->min_rnr_timer = 13;
	request->max_rd_atomic = 3;
	request->max_dest_rd_atomic = 2;
	request->access = htole32(VIRTIO_RDMA_ACCESS_REMOTE_WRITE | VIRTIO_RDMA_ACCESS_REMOTE_READ);
	request->rq_psn = htole32(FIRST_PSN);
	request->sq_psn = htole32(FIRST_PSN);
	request->dest_qpn = htole32(guest->qpn);
	memcpy(request->dgid, guest->address, 16);
	memcpy(request->dmac, "\x02\x03\x04\x05\x06\x07", 6);
	request->sgid_index = 1;
	request->hop_limit = 64;
	request->traffic_class = 8;
	return send_command(guest, sizeof(*request), sizeof(struct virtio_rdma_answer));
}

static void a_pair_is_what_the_driver_made_it(void **state)
{
	struct virtio_rdma_qp answer;
	struct guest guest;

	(void)state;
	guest_create(&guest);
	guest.qpn = driver_makes_a_pair(&guest);
	assert_int_equal(driver_modifies(&guest, STATE_INIT, MASK_INIT), 0);
	assert_int_equal(driver_modifies(&guest, STATE_RTR, MASK_RTR), 0);
	assert_int_equal(driver_modifies(&guest, STATE_RTS, MASK_RTS), 0);
	assert_int_equal(simple_command(&guest, VIRTIO_RDMA_QUERY_QP, guest.qpn), 0);
	memcpy(&answer, at(&guest, ANSWER), sizeof(answer));
	assert_int_equal(answer.state, STATE_RTS);
	assert_int_equal(answer.path_mtu, 4);
	assert_int_equal(answer.timeout, 15);
	assert_int_equal(answer.retry_count, 5);
	assert_int_equal(answer.rnr_retry, 6);
	assert_int_equal(answer.min_rnr_timer, 13);
	assert_int_equal(answer.max_rd_atomic, 3);
	assert_int_equal(answer.max_dest_rd_atomic, 2);
	assert_int_equal(le32toh(answer.access),
			 VIRTIO_RDMA_ACCESS_REMOTE_WRITE | VIRTIO_RDMA_ACCESS_REMOTE_READ);
	assert_int_equal(le32toh(answer.rq_psn), FIRST_PSN);
	assert_int_equal(le32toh(answer.sq_psn), FIRST_PSN);
	assert_int_equal(le32toh(answer.dest_qpn), guest.qpn);
	assert_memory_equal(answer.dgid, guest.address, 16);
	assert_int_equal(answer.sgid_index, 1);
	guest_destroy(&guest);
}

static void what_rxe_would_post_is_executed(void **state)
{
	struct rxe_send_wqe *work;
	struct ib_uverbs_wc done;
	struct guest guest;

	(void)state;
	guest_create(&guest);
	guest.qpn = driver_makes_a_pair(&guest);
	assert_int_equal(driver_modifies(&guest, STATE_INIT, MASK_INIT), 0);
	assert_int_equal(driver_modifies(&guest, STATE_RTR, MASK_RTR), 0);
	assert_int_equal(driver_modifies(&guest, STATE_RTS, MASK_RTS), 0);
	memcpy(at(&guest, DATA), "the same bytes", 15);
	work = (void *)new_element(&guest, &guest.sq);
	work->wr.wr_id = 0x1234567890;
	work->wr.opcode = WR_WRITE;
	work->wr.wr.rdma.remote_addr = DATA + 4096;
	work->wr.wr.rdma.rkey = guest.key;
	work->dma.length = 15;
	work->dma.num_sge = 1;
	work->dma.sge[0].addr = DATA;
	work->dma.sge[0].length = 15;
	work->dma.sge[0].lkey = guest.key;
	add_element(&guest, &guest.sq);
	kick(&guest, VIRTIO_RDMA_KICK_SEND, guest.qpn);
	for (int i = 0; !has_completion(&guest); i++) {
		assert_true(i < WAIT_MAX_MS);
		usleep(1000);
	}
	memcpy(&done, element(&guest, &guest.cq, 0), sizeof(done));
	assert_int_equal(done.wr_id, 0x1234567890);
	assert_int_equal(done.status, 0);
	assert_int_equal(done.opcode, IB_UVERBS_WC_RDMA_WRITE);
	assert_int_equal(done.qp_num, guest.qpn);
	assert_string_equal((char *)at(&guest, DATA + 4096), "the same bytes");
	guest_destroy(&guest);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_configuration_is_the_drivers),
	    cmocka_unit_test(a_pair_is_what_the_driver_made_it),
	    cmocka_unit_test(what_rxe_would_post_is_executed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
