// SPDX-License-Identifier: GPL-2.0
/*
 * Memory regions and windows. The device is given addresses, as runs; local
 * and remote key are one number, which the device chooses.
 */
#include <linux/dma-mapping.h>
#include <linux/log2.h>
#include <linux/sizes.h>

#include "vrdma.h"

/* A list of runs that is longer goes over in several commands. */
#define VRDMA_RUNS_MAX ((u32)(SZ_16K / sizeof(struct virtio_rdma_run)))

/* Rights that the device knows; hints are left to itself. */
static int vrdma_access(int access, __le32 *to)
{
	const int known = IB_ACCESS_LOCAL_WRITE | IB_ACCESS_REMOTE_WRITE |
			  IB_ACCESS_REMOTE_READ | IB_ACCESS_REMOTE_ATOMIC |
			  IB_ACCESS_MW_BIND;

	if (access & ~(known | IB_ACCESS_HUGETLB | IB_ACCESS_OPTIONAL))
		return -EOPNOTSUPP;
	*to = cpu_to_le32(access & known);
	return 0;
}

/* The runs of a region, of which some have been said. */
struct vrdma_runs {
	struct scatterlist *sg;
	u64 offset; /* into its piece */
	u64 left;   /* bytes of the region */
};

static u32 vrdma_runs_take(struct vrdma_runs *from, struct virtio_rdma_run *to,
			   u32 max)
{
	u32 count;

	for (count = 0; count < max && from->left; count++) {
		u64 here = min_t(u64, sg_dma_len(from->sg) - from->offset,
				 from->left);

		to[count].address =
			cpu_to_le64(sg_dma_address(from->sg) + from->offset);
		to[count].length = cpu_to_le64(here);
		from->left -= here;
		from->offset = 0;
		from->sg = sg_next(from->sg);
	}
	return count;
}

static u32 vrdma_runs_max(struct vrdma_dev *dev)
{
	size_t room =
		dev->limits.max_command - sizeof(struct virtio_rdma_create_mr);

	return min_t(size_t, VRDMA_RUNS_MAX,
		     room / sizeof(struct virtio_rdma_run));
}

/* Makes a region; @runs NULL: one that has none. */
static int vrdma_mr_create(struct vrdma_mr *mr, u32 type, int access, u64 iova,
			   u64 length, struct vrdma_runs *runs)
{
	struct vrdma_dev *dev = to_vdev(mr->ibmr.device);
	u32 max = runs ? vrdma_runs_max(dev) : 0, count = 0, key;
	struct virtio_rdma_create_mr *request;
	int err;

	request = vrdma_request_alloc(dev, struct_size(request, runs, max));
	if (!request)
		return -ENOMEM;
	err = vrdma_access(access, &request->access);
	if (err)
		goto free;
	if (runs)
		count = vrdma_runs_take(runs, request->runs, max);
	request->pdn = cpu_to_le32(to_vpd(mr->ibmr.pd)->pdn);
	request->type = cpu_to_le32(type);
	request->run_count = cpu_to_le32(count);
	request->iova = cpu_to_le64(iova);
	request->length = cpu_to_le64(length);
	request->max_pages = cpu_to_le32(mr->max_pages);
	err = vrdma_create(dev, VIRTIO_RDMA_CREATE_MR, &request->header,
			   struct_size(request, runs, count), &key);
	if (!err) {
		mr->ibmr.lkey = key;
		mr->ibmr.rkey = key;
	}
free:
	kvfree(request);
	return err;
}

static int vrdma_mr_extend(struct vrdma_mr *mr, struct vrdma_runs *runs)
{
	struct vrdma_dev *dev = to_vdev(mr->ibmr.device);
	struct virtio_rdma_extend_mr *request;
	u32 max = vrdma_runs_max(dev), count;
	int err = 0;

	request = vrdma_request_alloc(dev, struct_size(request, runs, max));
	if (!request)
		return -ENOMEM;
	while (runs->left && !err) {
		count = vrdma_runs_take(runs, request->runs, max);
		request->key = cpu_to_le32(mr->ibmr.lkey);
		request->run_count = cpu_to_le32(count);
		err = vrdma_command(dev, VIRTIO_RDMA_EXTEND_MR,
				    &request->header,
				    struct_size(request, runs, count), NULL, 0);
	}
	kvfree(request);
	return err;
}

static struct vrdma_mr *vrdma_mr_alloc(struct ib_pd *ibpd)
{
	struct vrdma_mr *mr = kzalloc(sizeof(*mr), GFP_KERNEL);

	if (mr) {
		/* The core says this too, but when it is made. */
		mr->ibmr.device = ibpd->device;
		mr->ibmr.pd = ibpd;
	}
	return mr;
}

struct ib_mr *vrdma_get_dma_mr(struct ib_pd *ibpd, int access)
{
	struct vrdma_mr *mr = vrdma_mr_alloc(ibpd);
	int err;

	if (!mr)
		return ERR_PTR(-ENOMEM);
	err = vrdma_mr_create(mr, VIRTIO_RDMA_MR_ALL, access, 0, 0, NULL);
	if (err) {
		kfree(mr);
		return ERR_PTR(err);
	}
	return &mr->ibmr;
}

struct ib_mr *vrdma_reg_user_mr(struct ib_pd *ibpd, u64 start, u64 length,
				u64 iova, int access, struct ib_udata *udata)
{
	struct vrdma_dev *dev = to_vdev(ibpd->device);
	struct vrdma_runs runs;
	struct vrdma_mr *mr;
	int err;

	if (!length || length > dev->limits.max_mr_size)
		return ERR_PTR(-EINVAL);
	mr = vrdma_mr_alloc(ibpd);
	if (!mr)
		return ERR_PTR(-ENOMEM);
	mr->umem = ib_umem_get(ibpd->device, start, length, access);
	if (IS_ERR(mr->umem)) {
		err = PTR_ERR(mr->umem);
		goto free;
	}

	runs.sg = mr->umem->sgt_append.sgt.sgl;
	runs.offset = ib_umem_offset(mr->umem);
	runs.left = length;
	err = vrdma_mr_create(mr, VIRTIO_RDMA_MR_MEMORY, access, iova, length,
			      &runs);
	if (err)
		goto umem;
	if (runs.left) {
		err = vrdma_mr_extend(mr, &runs);
		if (err)
			goto destroy;
	}
	mr->ibmr.iova = iova;
	mr->ibmr.length = length;
	return &mr->ibmr;

destroy:
	vrdma_command_number(dev, VIRTIO_RDMA_DESTROY_MR, mr->ibmr.lkey);
umem:
	ib_umem_release(mr->umem);
free:
	kfree(mr);
	return ERR_PTR(err);
}

static size_t vrdma_page_list_size(const struct vrdma_mr *mr)
{
	return (size_t)mr->max_pages * sizeof(*mr->page_list);
}

struct ib_mr *vrdma_alloc_mr(struct ib_pd *ibpd, enum ib_mr_type type,
			     u32 max_num_sg)
{
	struct vrdma_dev *dev = to_vdev(ibpd->device);
	struct vrdma_mr *mr;
	int err;

	if (type != IB_MR_TYPE_MEM_REG)
		return ERR_PTR(-EOPNOTSUPP);
	if (!max_num_sg || max_num_sg > dev->limits.max_fast_pages)
		return ERR_PTR(-EINVAL);
	mr = vrdma_mr_alloc(ibpd);
	if (!mr)
		return ERR_PTR(-ENOMEM);
	mr->max_pages = max_num_sg;
	mr->page_list =
		dma_alloc_coherent(vrdma_dma_dev(dev), vrdma_page_list_size(mr),
				   &mr->page_list_dma, GFP_KERNEL);
	if (!mr->page_list) {
		err = -ENOMEM;
		goto free;
	}
	err = vrdma_mr_create(mr, VIRTIO_RDMA_MR_FAST, 0, 0, 0, NULL);
	if (err)
		goto list;
	return &mr->ibmr;

list:
	dma_free_coherent(vrdma_dma_dev(dev), vrdma_page_list_size(mr),
			  mr->page_list, mr->page_list_dma);
free:
	kfree(mr);
	return ERR_PTR(err);
}

static int vrdma_set_page(struct ib_mr *ibmr, u64 address)
{
	struct vrdma_mr *mr = to_vmr(ibmr);

	if (mr->page_count == mr->max_pages)
		return -ENOMEM;
	mr->page_list[mr->page_count++] = cpu_to_le64(address);
	return 0;
}

/* The device reads the list when it executes the registration. */
int vrdma_map_mr_sg(struct ib_mr *ibmr, struct scatterlist *sg, int nents,
		    unsigned int *offset)
{
	to_vmr(ibmr)->page_count = 0;
	return ib_sg_to_pages(ibmr, sg, nents, offset, vrdma_set_page);
}

int vrdma_dereg_mr(struct ib_mr *ibmr, struct ib_udata *udata)
{
	struct vrdma_dev *dev = to_vdev(ibmr->device);
	struct vrdma_mr *mr = to_vmr(ibmr);
	int err;

	err = vrdma_command_number(dev, VIRTIO_RDMA_DESTROY_MR, ibmr->lkey);
	if (err && err != -ENODEV)
		return err;
	if (mr->page_list)
		dma_free_coherent(vrdma_dma_dev(dev), vrdma_page_list_size(mr),
				  mr->page_list, mr->page_list_dma);
	ib_umem_release(mr->umem);
	kfree(mr);
	return 0;
}

int vrdma_alloc_mw(struct ib_mw *ibmw, struct ib_udata *udata)
{
	/* Verbs and the device have the same numbers for the types. */
	struct virtio_rdma_create_mw request = {
		.pdn = cpu_to_le32(to_vpd(ibmw->pd)->pdn),
		.type = cpu_to_le32(ibmw->type),
	};

	return vrdma_create(to_vdev(ibmw->device), VIRTIO_RDMA_CREATE_MW,
			    &request.header, sizeof(request), &ibmw->rkey);
}

int vrdma_dealloc_mw(struct ib_mw *ibmw)
{
	return vrdma_command_number(to_vdev(ibmw->device),
				    VIRTIO_RDMA_DESTROY_MW, ibmw->rkey);
}
