// SPDX-License-Identifier: GPL-2.0
/*
 * Work requests. The kernel's are written here, in the layout that processes
 * use too; theirs are in the ring already, and the verb only says so.
 */
#include "vrdma.h"

static bool vrdma_qp_is_datagram(const struct ib_qp *ibqp)
{
	return ibqp->qp_type == IB_QPT_UD || ibqp->qp_type == IB_QPT_GSI;
}

static void vrdma_wqe_datagram(struct rxe_send_wqe *wqe,
			       const struct ib_ud_wr *wr)
{
	wqe->wr.wr.ud.remote_qpn = wr->remote_qpn;
	wqe->wr.wr.ud.remote_qkey = wr->remote_qkey;
	wqe->wr.wr.ud.pkey_index = wr->pkey_index;
	wqe->wr.wr.ud.av = to_vah(wr->ah)->av;
}

static void vrdma_wqe_registration(struct rxe_send_wqe *wqe,
				   const struct ib_reg_wr *wr)
{
	const struct vrdma_mr *mr = to_vmr(wr->mr);
	struct virtio_rdma_registration *to = (void *)&wqe->wr.wr;

	BUILD_BUG_ON(sizeof(*to) > sizeof(wqe->wr.wr));
	to->iova = cpu_to_le64(mr->ibmr.iova);
	to->length = cpu_to_le64(mr->ibmr.length);
	to->page_list = cpu_to_le64(mr->page_list_dma);
	to->page_count = cpu_to_le32(mr->page_count);
	to->page_shift = cpu_to_le32(ilog2(mr->ibmr.page_size));
	to->key = cpu_to_le32(wr->key);
	to->access = cpu_to_le32(wr->access);
}

/* What depends on the opcode; false: there is no such work request. */
static bool vrdma_wqe_operation(struct rxe_send_wqe *wqe,
				const struct ib_qp *ibqp,
				const struct ib_send_wr *wr)
{
	switch (wr->opcode) {
	case IB_WR_SEND_WITH_INV:
	case IB_WR_LOCAL_INV:
		wqe->wr.ex.invalidate_rkey = wr->ex.invalidate_rkey;
		return true;
	case IB_WR_SEND_WITH_IMM:
		wqe->wr.ex.imm_data = wr->ex.imm_data;
		fallthrough;
	case IB_WR_SEND:
		if (vrdma_qp_is_datagram(ibqp))
			vrdma_wqe_datagram(wqe, ud_wr(wr));
		return true;
	case IB_WR_RDMA_WRITE_WITH_IMM:
		wqe->wr.ex.imm_data = wr->ex.imm_data;
		fallthrough;
	case IB_WR_RDMA_WRITE:
	case IB_WR_RDMA_READ:
		wqe->wr.wr.rdma.remote_addr = rdma_wr(wr)->remote_addr;
		wqe->wr.wr.rdma.rkey = rdma_wr(wr)->rkey;
		return true;
	case IB_WR_ATOMIC_CMP_AND_SWP:
	case IB_WR_ATOMIC_FETCH_AND_ADD:
		wqe->wr.wr.atomic.remote_addr = atomic_wr(wr)->remote_addr;
		wqe->wr.wr.atomic.compare_add = atomic_wr(wr)->compare_add;
		wqe->wr.wr.atomic.swap = atomic_wr(wr)->swap;
		wqe->wr.wr.atomic.rkey = atomic_wr(wr)->rkey;
		return true;
	case IB_WR_REG_MR:
		wqe->wr.opcode = VIRTIO_RDMA_WR_REG_MR;
		vrdma_wqe_registration(wqe, reg_wr(wr));
		return true;
	default:
		return false;
	}
}

static u64 vrdma_length(const struct ib_sge *sge, int count)
{
	u64 length = 0;

	while (count--)
		length += sge++->length;
	return length;
}

static int vrdma_wqe_data(struct rxe_send_wqe *wqe, const struct vrdma_qp *qp,
			  const struct ib_send_wr *wr)
{
	u64 length = vrdma_length(wr->sg_list, wr->num_sge);
	u8 *to = wqe->dma.inline_data;
	int i;

	if (length > U32_MAX)
		return -EINVAL;
	wqe->dma.length = length;
	wqe->dma.resid = length;
	if (wr->send_flags & IB_SEND_INLINE) {
		if (length > qp->cap.max_inline_data)
			return -EINVAL;
		/* Segments of inline data have the kernel's addresses. */
		for (i = 0; i < wr->num_sge; i++) {
			memcpy(to, (void *)(uintptr_t)wr->sg_list[i].addr,
			       wr->sg_list[i].length);
			to += wr->sg_list[i].length;
		}
		return 0;
	}
	if (wr->num_sge > qp->cap.max_send_sge)
		return -EINVAL;
	wqe->dma.num_sge = wr->num_sge;
	BUILD_BUG_ON(sizeof(struct ib_sge) != sizeof(struct rxe_sge));
	memcpy(wqe->dma.sge, wr->sg_list, wr->num_sge * sizeof(*wr->sg_list));
	return 0;
}

static int vrdma_post_one_send(struct vrdma_qp *qp, const struct ib_send_wr *wr)
{
	struct rxe_send_wqe *wqe = vrdma_queue_element(&qp->send);
	int err;

	if (vrdma_queue_full(&qp->send))
		return -ENOMEM;
	memset(wqe, 0, sizeof(*wqe));
	wqe->wr.wr_id = wr->wr_id;
	wqe->wr.opcode = wr->opcode;
	wqe->wr.send_flags =
		wr->send_flags & (IB_SEND_FENCE | IB_SEND_SIGNALED |
				  IB_SEND_SOLICITED | IB_SEND_INLINE);
	if (!vrdma_wqe_operation(wqe, &qp->ibqp, wr))
		return -EINVAL;
	err = vrdma_wqe_data(wqe, qp, wr);
	if (err)
		return err;
	vrdma_queue_added(&qp->send);
	return 0;
}

int vrdma_post_send(struct ib_qp *ibqp, const struct ib_send_wr *wr,
		    const struct ib_send_wr **bad)
{
	struct vrdma_qp *qp = to_vqp(ibqp);
	unsigned long flags;
	int err = 0;

	*bad = wr;
	if (qp->user) {
		/* A doorbell. */
		if (wr)
			return -EINVAL;
		vrdma_kick(to_vdev(ibqp->device), qp, VIRTIO_RDMA_KICK_SEND);
		return 0;
	}
	if (READ_ONCE(qp->state) < IB_QPS_RTS)
		return -EINVAL;

	spin_lock_irqsave(&qp->send_lock, flags);
	for (; wr; wr = wr->next) {
		err = vrdma_post_one_send(qp, wr);
		if (err)
			break;
	}
	spin_unlock_irqrestore(&qp->send_lock, flags);
	*bad = wr;
	/* Those before a bad one are posted. */
	vrdma_kick(to_vdev(ibqp->device), qp, VIRTIO_RDMA_KICK_SEND);
	return err;
}

static int vrdma_post_receives(struct vrdma_queue *queue, u32 max_sge,
			       const struct ib_recv_wr *wr,
			       const struct ib_recv_wr **bad)
{
	for (; wr; wr = wr->next) {
		u64 length = vrdma_length(wr->sg_list, wr->num_sge);
		struct rxe_recv_wqe *wqe = vrdma_queue_element(queue);

		*bad = wr;
		if (vrdma_queue_full(queue))
			return -ENOMEM;
		if (wr->num_sge > max_sge || length > U32_MAX)
			return -EINVAL;
		memset(wqe, 0, sizeof(*wqe));
		wqe->wr_id = wr->wr_id;
		wqe->dma.length = length;
		wqe->dma.resid = length;
		wqe->dma.num_sge = wr->num_sge;
		memcpy(wqe->dma.sge, wr->sg_list,
		       wr->num_sge * sizeof(*wr->sg_list));
		vrdma_queue_added(queue);
	}
	return 0;
}

int vrdma_post_recv(struct ib_qp *ibqp, const struct ib_recv_wr *wr,
		    const struct ib_recv_wr **bad)
{
	struct vrdma_qp *qp = to_vqp(ibqp);
	unsigned long flags;
	int err;

	*bad = wr;
	if (qp->user || ibqp->srq || READ_ONCE(qp->state) == IB_QPS_RESET)
		return -EINVAL;
	spin_lock_irqsave(&qp->receive_lock, flags);
	err = vrdma_post_receives(&qp->receive, qp->cap.max_recv_sge, wr, bad);
	spin_unlock_irqrestore(&qp->receive_lock, flags);
	/* A message finds receives by itself; those to be flushed are said. */
	if (READ_ONCE(qp->state) == IB_QPS_ERR)
		vrdma_kick(to_vdev(ibqp->device), qp, VIRTIO_RDMA_KICK_RECEIVE);
	return err;
}

int vrdma_post_srq_recv(struct ib_srq *ibsrq, const struct ib_recv_wr *wr,
			const struct ib_recv_wr **bad)
{
	struct vrdma_srq *srq = to_vsrq(ibsrq);
	unsigned long flags;
	int err;

	*bad = wr;
	if (ibsrq->uobject)
		return -EINVAL;
	spin_lock_irqsave(&srq->receive_lock, flags);
	err = vrdma_post_receives(&srq->queue, srq->max_sge, wr, bad);
	spin_unlock_irqrestore(&srq->receive_lock, flags);
	return err;
}
