/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR BSD-2-Clause) */
/*
 * The interface between a virtio RDMA device and its driver, as structures:
 * docs/virtio-rdma.md of godwit has the same offsets and says what they mean.
 * Work queues and completion queues are not here: their layout is that of
 * rdma/rdma_user_rxe.h, and only what that leaves open is.
 *
 * For the kernel and for user space.
 */
#ifndef VIRTIO_RDMA_H
#define VIRTIO_RDMA_H

#include <linux/types.h>

#define VIRTIO_ID_RDMA 42

#define VIRTIO_RDMA_F_RXE_QUEUES 0

/* Configuration space */

#define VIRTIO_RDMA_S_PORT_UP 1

struct virtio_rdma_config {
	__u8 mac[6];
	__le16 gids;
	__le32 status;
	__le32 max_mtu;
	__u8 guid[8];
	__le32 max_qp;
	__le32 max_cq;
	__le32 max_srq;
	__le32 max_pd;
	__le32 max_mr;
	__le32 max_mw;
	__le32 max_queue_slots;
	__le32 max_cq_slots;
	__le32 max_sge;
	__le32 max_inline;
	__le32 max_rd_atomic;
	__le32 max_fast_pages;
	__le32 max_command;
	__le32 max_message;
	__le64 max_mr_size;
};

/* Virtqueues */

#define VIRTIO_RDMA_VQ_CONTROL 0
#define VIRTIO_RDMA_VQ_EVENTS  1
#define VIRTIO_RDMA_VQ_KICK    2
#define VIRTIO_RDMA_VQ_COUNT   3

#define VIRTIO_RDMA_EVENT_CQ_ERR	      0
#define VIRTIO_RDMA_EVENT_QP_FATAL	      1
#define VIRTIO_RDMA_EVENT_QP_REQ_ERR	      2
#define VIRTIO_RDMA_EVENT_QP_ACCESS_ERR	      3
#define VIRTIO_RDMA_EVENT_COMM_EST	      4
#define VIRTIO_RDMA_EVENT_SQ_DRAINED	      5
#define VIRTIO_RDMA_EVENT_SRQ_LIMIT_REACHED   15
#define VIRTIO_RDMA_EVENT_QP_LAST_WQE_REACHED 16
#define VIRTIO_RDMA_EVENT_COMPLETION	      0x100

struct virtio_rdma_event {
	__le32 type;
	__le32 number;
	__u8 reserved[8];
};

#define VIRTIO_RDMA_KICK_SEND	 1
#define VIRTIO_RDMA_KICK_RECEIVE 2

struct virtio_rdma_kick {
	__le32 kind;
	__le32 number;
};

/* Commands */

#define VIRTIO_RDMA_CREATE_PD	1
#define VIRTIO_RDMA_DESTROY_PD	2
#define VIRTIO_RDMA_CREATE_CQ	3
#define VIRTIO_RDMA_DESTROY_CQ	4
#define VIRTIO_RDMA_CREATE_SRQ	5
#define VIRTIO_RDMA_MODIFY_SRQ	6
#define VIRTIO_RDMA_QUERY_SRQ	7
#define VIRTIO_RDMA_DESTROY_SRQ 8
#define VIRTIO_RDMA_CREATE_QP	9
#define VIRTIO_RDMA_MODIFY_QP	10
#define VIRTIO_RDMA_QUERY_QP	11
#define VIRTIO_RDMA_DESTROY_QP	12
#define VIRTIO_RDMA_CREATE_MR	13
#define VIRTIO_RDMA_EXTEND_MR	14
#define VIRTIO_RDMA_DESTROY_MR	15
#define VIRTIO_RDMA_CREATE_MW	16
#define VIRTIO_RDMA_DESTROY_MW	17
#define VIRTIO_RDMA_SET_GID	18
#define VIRTIO_RDMA_DELETE_GID	19

/* What each command begins with, and each answer. */
struct virtio_rdma_request {
	__le32 command;
	__le32 reserved;
};

struct virtio_rdma_answer {
	__le32 status;
	__le32 reserved;
};

struct virtio_rdma_run {
	__le64 address;
	__le64 length;
};

/* The request that only names an object, and the answer that only does. */
struct virtio_rdma_number_request {
	struct virtio_rdma_request header;
	__le32 number;
};

struct virtio_rdma_number_answer {
	struct virtio_rdma_answer header;
	__le32 number;
	__le32 reserved;
};

struct virtio_rdma_create_pd {
	struct virtio_rdma_request header;
};

struct virtio_rdma_create_cq {
	struct virtio_rdma_request header;
	__le32 slots;
	__le32 run_count;
	struct virtio_rdma_run runs[];
};

struct virtio_rdma_create_srq {
	struct virtio_rdma_request header;
	__le32 pdn;
	__le32 slots;
	__le32 stride;
	__le32 max_sge;
	__le32 limit;
	__le32 run_count;
	struct virtio_rdma_run runs[];
};

struct virtio_rdma_modify_srq {
	struct virtio_rdma_request header;
	__le32 srqn;
	__le32 limit;
};

#define VIRTIO_RDMA_QP_GSI 1
#define VIRTIO_RDMA_QP_RC  2
#define VIRTIO_RDMA_QP_UC  3
#define VIRTIO_RDMA_QP_UD  4

#define VIRTIO_RDMA_QP_F_SIGNAL_ALL 1

struct virtio_rdma_create_qp {
	struct virtio_rdma_request header;
	__le32 pdn;
	__u8 type;
	__u8 flags;
	__le16 reserved;
	__le32 send_cqn;
	__le32 receive_cqn;
	__le32 srqn;
	__le32 send_slots;
	__le32 send_stride;
	__le32 send_sge;
	__le32 send_inline;
	__le32 receive_slots;
	__le32 receive_stride;
	__le32 receive_sge;
	__le32 send_run_count;
	__le32 receive_run_count;
	struct virtio_rdma_run runs[];
};

/* MODIFY_QP, QUERY_QP and the answer of QUERY_QP; @command is @status there. */
struct virtio_rdma_qp {
	struct virtio_rdma_request header;
	__le32 qpn;
	__le32 mask;
	__u8 state;
	__u8 path_mtu;
	__u8 timeout;
	__u8 retry_count;
	__u8 rnr_retry;
	__u8 min_rnr_timer;
	__u8 max_rd_atomic;
	__u8 max_dest_rd_atomic;
	__le32 access;
	__le32 qkey;
	__le32 rq_psn;
	__le32 sq_psn;
	__le32 dest_qpn;
	__le32 flow_label;
	__u8 dgid[16];
	__u8 dmac[6];
	__u8 sgid_index;
	__u8 hop_limit;
	__u8 traffic_class;
	__u8 reserved1;
	__le16 source_port;
	__le32 reserved2;
};

#define VIRTIO_RDMA_MR_MEMORY 1
#define VIRTIO_RDMA_MR_ALL    2
#define VIRTIO_RDMA_MR_FAST   3

#define VIRTIO_RDMA_ACCESS_LOCAL_WRITE	 (1 << 0)
#define VIRTIO_RDMA_ACCESS_REMOTE_WRITE	 (1 << 1)
#define VIRTIO_RDMA_ACCESS_REMOTE_READ	 (1 << 2)
#define VIRTIO_RDMA_ACCESS_REMOTE_ATOMIC (1 << 3)
#define VIRTIO_RDMA_ACCESS_BIND		 (1 << 4)

struct virtio_rdma_create_mr {
	struct virtio_rdma_request header;
	__le32 pdn;
	__le32 access;
	__le32 type;
	__le32 run_count;
	__le64 iova;
	__le64 length;
	__le32 max_pages;
	__le32 reserved;
	struct virtio_rdma_run runs[];
};

struct virtio_rdma_extend_mr {
	struct virtio_rdma_request header;
	__le32 key;
	__le32 run_count;
	struct virtio_rdma_run runs[];
};

struct virtio_rdma_create_mw {
	struct virtio_rdma_request header;
	__le32 pdn;
	__le32 type;
};

struct virtio_rdma_set_gid {
	struct virtio_rdma_request header;
	__le32 index;
	__le32 reserved;
	__u8 gid[16];
};

/* Queues in memory: struct rxe_queue_buf, in whose padding this lies */

#define VIRTIO_RDMA_QUEUE_ARMED	   8
#define VIRTIO_RDMA_QUEUE_PRODUCER 128
#define VIRTIO_RDMA_QUEUE_CONSUMER 256
#define VIRTIO_RDMA_QUEUE_ELEMENTS 384

#define VIRTIO_RDMA_ARMED_NOT	    0
#define VIRTIO_RDMA_ARMED_SOLICITED 1
#define VIRTIO_RDMA_ARMED_ANY	    2

#define VIRTIO_RDMA_STRIDE_MAX 1024
#define VIRTIO_RDMA_CQ_STRIDE  64

/* A work request of fast registration, from the byte 24 of its element on. */
#define VIRTIO_RDMA_WR_REG_MR 32

struct virtio_rdma_registration {
	__le64 iova;
	__le64 length;
	__le64 page_list;
	__le32 page_count;
	__le32 page_shift;
	__le32 key;
	__le32 access;
};

#define VIRTIO_RDMA_WC_REG_MR 32

/* Flags of a completion. */
#define VIRTIO_RDMA_WC_GRH	       1
#define VIRTIO_RDMA_WC_WITH_IMMEDIATE  2
#define VIRTIO_RDMA_WC_WITH_INVALIDATE 8

#endif
