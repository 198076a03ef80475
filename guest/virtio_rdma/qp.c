// SPDX-License-Identifier: GPL-2.0
/* Queue pairs: making, changing and asking; post.c posts work. */
#include <linux/etherdevice.h>
#include <rdma/ib_cache.h>
#include <rdma/uverbs_ioctl.h>

#include "vrdma.h"

static int vrdma_qp_type(enum ib_qp_type type)
{
	switch (type) {
	case IB_QPT_GSI:
		return VIRTIO_RDMA_QP_GSI;
	case IB_QPT_RC:
		return VIRTIO_RDMA_QP_RC;
	case IB_QPT_UC:
		return VIRTIO_RDMA_QP_UC;
	case IB_QPT_UD:
		return VIRTIO_RDMA_QP_UD;
	default:
		return -EOPNOTSUPP;
	}
}

/*
 * Bounds what is asked for, and rounds it up to what there is: inline data may
 * fill the place of the segments.
 */
static int vrdma_qp_cap(const struct vrdma_limits *limits,
			const struct ib_qp_init_attr *init,
			struct ib_qp_cap *cap)
{
	const u32 segment = sizeof(struct rxe_sge);

	*cap = init->cap;
	if (init->srq) {
		cap->max_recv_wr = 0;
		cap->max_recv_sge = 0;
	}
	if (cap->max_send_wr >= limits->max_queue_slots ||
	    cap->max_recv_wr >= limits->max_queue_slots ||
	    cap->max_send_sge > limits->max_sge ||
	    cap->max_recv_sge > limits->max_sge ||
	    cap->max_inline_data > limits->max_inline)
		return -EINVAL;

	cap->max_send_wr = max(cap->max_send_wr, 1U);
	cap->max_send_sge = max(cap->max_send_sge, 1U);
	cap->max_inline_data =
		max(cap->max_inline_data,
		    min(cap->max_send_sge * segment, limits->max_inline));
	if (!init->srq) {
		cap->max_recv_wr = max(cap->max_recv_wr, 1U);
		cap->max_recv_sge = max(cap->max_recv_sge, 1U);
	}
	return 0;
}

static int vrdma_qp_queues(struct vrdma_qp *qp, bool shared,
			   struct ib_udata *udata,
			   struct rxe_create_qp_resp *resp)
{
	struct vrdma_dev *dev = to_vdev(qp->ibqp.device);
	struct ib_qp_cap *cap = &qp->cap;
	u32 room = max_t(u32, cap->max_send_sge * sizeof(struct rxe_sge),
			 cap->max_inline_data);
	int err;

	if (sizeof(struct rxe_send_wqe) + room > VIRTIO_RDMA_STRIDE_MAX)
		return -EINVAL;
	err = vrdma_queue_create(dev, &qp->send, cap->max_send_wr,
				 sizeof(struct rxe_send_wqe) + room, udata,
				 &resp->sq_mi);
	if (err)
		return err;
	cap->max_send_wr = qp->send.mask;
	if (shared)
		return 0;
	err = vrdma_queue_create(dev, &qp->receive, cap->max_recv_wr,
				 vrdma_receive_size(cap->max_recv_sge), udata,
				 &resp->rq_mi);
	if (err) {
		vrdma_queue_destroy(dev, &qp->send);
		return err;
	}
	cap->max_recv_wr = qp->receive.mask;
	return 0;
}

static int vrdma_qp_command(struct vrdma_qp *qp,
			    const struct ib_qp_init_attr *init, int type,
			    u32 *number)
{
	struct vrdma_dev *dev = to_vdev(qp->ibqp.device);
	u32 send = vrdma_queue_runs(&qp->send, NULL), receive = 0;
	struct virtio_rdma_create_qp *request;
	size_t size;
	int err;

	if (!init->srq)
		receive = vrdma_queue_runs(&qp->receive, NULL);
	size = struct_size(request, runs, send + receive);
	request = vrdma_request_alloc(dev, size);
	if (!request)
		return -ENOMEM;

	request->pdn = cpu_to_le32(to_vpd(qp->ibqp.pd)->pdn);
	request->type = type;
	if (init->sq_sig_type == IB_SIGNAL_ALL_WR)
		request->flags = VIRTIO_RDMA_QP_F_SIGNAL_ALL;
	request->send_cqn = cpu_to_le32(to_vcq(init->send_cq)->object.number);
	request->receive_cqn =
		cpu_to_le32(to_vcq(init->recv_cq)->object.number);
	request->send_slots = cpu_to_le32(vrdma_queue_slots(&qp->send));
	request->send_stride = cpu_to_le32(1 << qp->send.shift);
	request->send_sge = cpu_to_le32(qp->cap.max_send_sge);
	request->send_inline = cpu_to_le32(qp->cap.max_inline_data);
	request->send_run_count = cpu_to_le32(send);
	vrdma_queue_runs(&qp->send, request->runs);
	if (init->srq) {
		request->srqn = cpu_to_le32(to_vsrq(init->srq)->object.number);
	} else {
		request->receive_slots =
			cpu_to_le32(vrdma_queue_slots(&qp->receive));
		request->receive_stride = cpu_to_le32(1 << qp->receive.shift);
		request->receive_sge = cpu_to_le32(qp->cap.max_recv_sge);
		request->receive_run_count = cpu_to_le32(receive);
		vrdma_queue_runs(&qp->receive, request->runs + send);
	}
	err = vrdma_create(dev, VIRTIO_RDMA_CREATE_QP, &request->header, size,
			   number);
	kvfree(request);
	return err;
}

int vrdma_create_qp(struct ib_qp *ibqp, struct ib_qp_init_attr *init,
		    struct ib_udata *udata)
{
	struct vrdma_dev *dev = to_vdev(ibqp->device);
	struct vrdma_qp *qp = to_vqp(ibqp);
	struct rxe_create_qp_resp resp = {};
	int err, type = vrdma_qp_type(init->qp_type);
	u32 number;

	if (type < 0)
		return type;
	if (init->create_flags)
		return -EOPNOTSUPP;
	if (!init->send_cq || !init->recv_cq)
		return -EINVAL;
	if (udata && (udata->inlen || udata->outlen < sizeof(resp)))
		return -EINVAL;

	spin_lock_init(&qp->send_lock);
	spin_lock_init(&qp->receive_lock);
	qp->state = IB_QPS_RESET;
	qp->sig_type = init->sq_sig_type;
	qp->user = udata;
	err = vrdma_qp_cap(&dev->limits, init, &qp->cap);
	if (err)
		return err;
	err = vrdma_qp_queues(qp, init->srq, udata, &resp);
	if (err)
		return err;
	err = vrdma_qp_command(qp, init, type, &number);
	if (err)
		goto queues;
	ibqp->qp_num = number;
	err = vrdma_object_add(&dev->qps, &qp->object, number);
	if (err)
		goto command;
	if (udata) {
		err = ib_copy_to_udata(udata, &resp, sizeof(resp));
		if (err)
			goto object;
	}
	init->cap = qp->cap;
	return 0;

object:
	vrdma_object_remove(&dev->qps, &qp->object);
command:
	vrdma_command_number(dev, VIRTIO_RDMA_DESTROY_QP, number);
queues:
	vrdma_queue_destroy(dev, &qp->send);
	vrdma_queue_destroy(dev, &qp->receive);
	return err;
}

static void vrdma_qp_set_address(struct virtio_rdma_qp *to,
				 const struct rdma_ah_attr *attr)
{
	const struct ib_global_route *grh = rdma_ah_read_grh(attr);

	to->flow_label = cpu_to_le32(grh->flow_label);
	memcpy(to->dgid, grh->dgid.raw, sizeof(to->dgid));
	ether_addr_copy(to->dmac, attr->roce.dmac);
	to->sgid_index = grh->sgid_index;
	to->hop_limit = grh->hop_limit;
	to->traffic_class = grh->traffic_class;
}

static void vrdma_qp_set(struct virtio_rdma_qp *to,
			 const struct ib_qp_attr *attr, int mask)
{
	/* States, path MTUs and rights have the numbers of verbs. */
	to->mask = cpu_to_le32(mask);
	if (mask & IB_QP_STATE)
		to->state = attr->qp_state;
	if (mask & IB_QP_PATH_MTU)
		to->path_mtu = attr->path_mtu;
	if (mask & IB_QP_TIMEOUT)
		to->timeout = attr->timeout;
	if (mask & IB_QP_RETRY_CNT)
		to->retry_count = attr->retry_cnt;
	if (mask & IB_QP_RNR_RETRY)
		to->rnr_retry = attr->rnr_retry;
	if (mask & IB_QP_MIN_RNR_TIMER)
		to->min_rnr_timer = attr->min_rnr_timer;
	if (mask & IB_QP_MAX_QP_RD_ATOMIC)
		to->max_rd_atomic = attr->max_rd_atomic;
	if (mask & IB_QP_MAX_DEST_RD_ATOMIC)
		to->max_dest_rd_atomic = attr->max_dest_rd_atomic;
	if (mask & IB_QP_ACCESS_FLAGS)
		to->access = cpu_to_le32(
			attr->qp_access_flags &
			(IB_ACCESS_LOCAL_WRITE | IB_ACCESS_REMOTE_WRITE |
			 IB_ACCESS_REMOTE_READ | IB_ACCESS_REMOTE_ATOMIC |
			 IB_ACCESS_MW_BIND));
	if (mask & IB_QP_QKEY)
		to->qkey = cpu_to_le32(attr->qkey);
	if (mask & IB_QP_RQ_PSN)
		to->rq_psn = cpu_to_le32(attr->rq_psn);
	if (mask & IB_QP_SQ_PSN)
		to->sq_psn = cpu_to_le32(attr->sq_psn);
	if (mask & IB_QP_DEST_QPN)
		to->dest_qpn = cpu_to_le32(attr->dest_qp_num);
	if (mask & IB_QP_AV)
		vrdma_qp_set_address(to, &attr->ah_attr);
}

int vrdma_modify_qp(struct ib_qp *ibqp, struct ib_qp_attr *attr, int mask,
		    struct ib_udata *udata)
{
	struct vrdma_dev *dev = to_vdev(ibqp->device);
	struct vrdma_qp *qp = to_vqp(ibqp);
	struct virtio_rdma_qp request = {
		.qpn = cpu_to_le32(ibqp->qp_num),
	};
	int err;

	if (mask & ~IB_QP_ATTR_STANDARD_BITS)
		return -EOPNOTSUPP;
	if (mask & IB_QP_AV &&
	    !(rdma_ah_get_ah_flags(&attr->ah_attr) & IB_AH_GRH))
		return -EINVAL;

	vrdma_qp_set(&request, attr, mask);
	err = vrdma_command(dev, VIRTIO_RDMA_MODIFY_QP, &request.header,
			    sizeof(request), NULL, 0);
	if (err || !(mask & IB_QP_STATE))
		return err;
	WRITE_ONCE(qp->state, attr->qp_state);
	/* What was posted before was waiting. */
	if (attr->qp_state == IB_QPS_RTS)
		vrdma_kick(dev, qp, VIRTIO_RDMA_KICK_SEND);
	return 0;
}

static void vrdma_qp_get(const struct virtio_rdma_qp *from,
			 struct ib_qp_attr *attr, struct ib_device *ibdev)
{
	attr->qp_state = from->state;
	attr->cur_qp_state = from->state;
	attr->path_mtu = from->path_mtu;
	attr->path_mig_state = IB_MIG_MIGRATED;
	attr->qkey = le32_to_cpu(from->qkey);
	attr->rq_psn = le32_to_cpu(from->rq_psn);
	attr->sq_psn = le32_to_cpu(from->sq_psn);
	attr->dest_qp_num = le32_to_cpu(from->dest_qpn);
	attr->qp_access_flags = le32_to_cpu(from->access);
	attr->max_rd_atomic = from->max_rd_atomic;
	attr->max_dest_rd_atomic = from->max_dest_rd_atomic;
	attr->min_rnr_timer = from->min_rnr_timer;
	attr->port_num = VRDMA_PORT;
	attr->timeout = from->timeout;
	attr->retry_cnt = from->retry_count;
	attr->rnr_retry = from->rnr_retry;
	attr->ah_attr.type = rdma_ah_find_type(ibdev, VRDMA_PORT);
	rdma_ah_set_port_num(&attr->ah_attr, VRDMA_PORT);
	rdma_ah_set_grh(&attr->ah_attr, (union ib_gid *)from->dgid,
			le32_to_cpu(from->flow_label), from->sgid_index,
			from->hop_limit, from->traffic_class);
	ether_addr_copy(attr->ah_attr.roce.dmac, from->dmac);
}

int vrdma_query_qp(struct ib_qp *ibqp, struct ib_qp_attr *attr, int mask,
		   struct ib_qp_init_attr *init)
{
	struct vrdma_qp *qp = to_vqp(ibqp);
	struct virtio_rdma_number_request request = {
		.number = cpu_to_le32(ibqp->qp_num),
	};
	struct virtio_rdma_qp answer;
	int err;

	err = vrdma_command(to_vdev(ibqp->device), VIRTIO_RDMA_QUERY_QP,
			    &request.header, sizeof(request), &answer,
			    sizeof(answer));
	if (err)
		return err;
	memset(attr, 0, sizeof(*attr));
	vrdma_qp_get(&answer, attr, ibqp->device);
	attr->cap = qp->cap;
	init->event_handler = ibqp->event_handler;
	init->qp_context = ibqp->qp_context;
	init->send_cq = ibqp->send_cq;
	init->recv_cq = ibqp->recv_cq;
	init->srq = ibqp->srq;
	init->cap = qp->cap;
	init->sq_sig_type = qp->sig_type;
	init->qp_type = ibqp->qp_type;
	return 0;
}

int vrdma_destroy_qp(struct ib_qp *ibqp, struct ib_udata *udata)
{
	struct vrdma_dev *dev = to_vdev(ibqp->device);
	struct vrdma_qp *qp = to_vqp(ibqp);
	int err;

	err = vrdma_command_number(dev, VIRTIO_RDMA_DESTROY_QP, ibqp->qp_num);
	if (err && err != -ENODEV)
		return err;
	vrdma_object_remove(&dev->qps, &qp->object);
	vrdma_kick_forget(dev, qp);
	vrdma_queue_destroy(dev, &qp->send);
	vrdma_queue_destroy(dev, &qp->receive);
	return 0;
}
