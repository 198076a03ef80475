// SPDX-License-Identifier: GPL-2.0
/*
 * Rings: the memory of send, receive and completion queues. The kernel
 * allocates it, the device reads and writes it by the addresses of its pages,
 * and for a queue of a process the provider maps it too, where the answer to
 * its verb says. The layout is that of struct rxe_queue_buf.
 *
 * The kernel believes nothing in a ring that a process can write: the sizes
 * are kept here, and of indexes only those of the kernel's own queues are read.
 */
#include <linux/dma-mapping.h>
#include <linux/log2.h>
#include <linux/vmalloc.h>
#include <rdma/uverbs_ioctl.h>

#include "vrdma.h"

struct vrdma_mmap {
	struct rdma_user_mmap_entry entry;
	void *memory;
};

/* The last one that looks at it has gone. */
void vrdma_mmap_free(struct rdma_user_mmap_entry *entry)
{
	struct vrdma_mmap *map = container_of(entry, struct vrdma_mmap, entry);

	vfree(map->memory);
	kfree(map);
}

/*
 * The pages stay as long as they are mapped, whatever becomes of the queue, so
 * that a mapping needs no operations of its own.
 */
int vrdma_mmap(struct ib_ucontext *context, struct vm_area_struct *vma)
{
	struct rdma_user_mmap_entry *entry;
	struct vrdma_mmap *map;
	int err;

	entry = rdma_user_mmap_entry_get(context, vma);
	if (!entry)
		return -EINVAL;
	map = container_of(entry, struct vrdma_mmap, entry);
	err = remap_vmalloc_range(vma, map->memory, 0);
	rdma_user_mmap_entry_put(entry);
	return err;
}

static void vrdma_queue_unmap(struct vrdma_dev *dev, struct vrdma_queue *queue,
			      u32 count)
{
	while (count--)
		dma_unmap_page(vrdma_dma_dev(dev), queue->pages[count],
			       PAGE_SIZE, DMA_BIDIRECTIONAL);
}

static int vrdma_queue_map(struct vrdma_dev *dev, struct vrdma_queue *queue)
{
	u32 i;

	queue->pages =
		kvcalloc(queue->npages, sizeof(*queue->pages), GFP_KERNEL);
	if (!queue->pages)
		return -ENOMEM;
	for (i = 0; i < queue->npages; i++) {
		void *at = (void *)queue->buf + (size_t)i * PAGE_SIZE;

		queue->pages[i] =
			dma_map_page(vrdma_dma_dev(dev), vmalloc_to_page(at), 0,
				     PAGE_SIZE, DMA_BIDIRECTIONAL);
		if (dma_mapping_error(vrdma_dma_dev(dev), queue->pages[i])) {
			vrdma_queue_unmap(dev, queue, i);
			kvfree(queue->pages);
			return -ENOMEM;
		}
	}
	return 0;
}

/* Offers the memory to the process that the verb comes from. */
static int vrdma_queue_offer(struct vrdma_queue *queue, struct ib_udata *udata,
			     struct mminfo *info)
{
	struct vrdma_ucontext *context = rdma_udata_to_drv_context(
		udata, struct vrdma_ucontext, ibcontext);
	struct vrdma_mmap *map;
	int err;

	map = kzalloc(sizeof(*map), GFP_KERNEL);
	if (!map)
		return -ENOMEM;
	map->memory = queue->buf;
	err = rdma_user_mmap_entry_insert(&context->ibcontext, &map->entry,
					  (size_t)queue->npages * PAGE_SIZE);
	if (err) {
		kfree(map);
		return err;
	}
	queue->entry = &map->entry;
	info->offset = rdma_user_mmap_get_offset(&map->entry);
	info->size = queue->npages * PAGE_SIZE;
	info->pad = 0;
	return 0;
}

/*
 * A ring with room for @entries of @size bytes each. With @udata, of a verb that
 * comes from a process, it is offered to that, and @info says where.
 */
int vrdma_queue_create(struct vrdma_dev *dev, struct vrdma_queue *queue,
		       u32 entries, u32 size, struct ib_udata *udata,
		       struct mminfo *info)
{
	/* One is always empty: full and empty differ by it. */
	u32 slots = roundup_pow_of_two(entries + 1);
	u32 shift = order_base_2(size);
	size_t bytes = sizeof(*queue->buf) + ((size_t)slots << shift);
	int err;

	memset(queue, 0, sizeof(*queue));
	queue->npages = PFN_UP(bytes);
	queue->mask = slots - 1;
	queue->shift = shift;
	queue->buf = vmalloc_user((size_t)queue->npages * PAGE_SIZE);
	if (!queue->buf)
		return -ENOMEM;
	queue->buf->log2_elem_size = shift;
	queue->buf->index_mask = queue->mask;

	err = vrdma_queue_map(dev, queue);
	if (err)
		goto free;
	if (udata) {
		err = vrdma_queue_offer(queue, udata, info);
		if (err)
			goto unmap;
	}
	return 0;

unmap:
	vrdma_queue_unmap(dev, queue, queue->npages);
	kvfree(queue->pages);
free:
	vfree(queue->buf);
	queue->buf = NULL;
	return err;
}

/* The device no longer uses it. A queue that was never made has no memory. */
void vrdma_queue_destroy(struct vrdma_dev *dev, struct vrdma_queue *queue)
{
	if (!queue->buf)
		return;
	vrdma_queue_unmap(dev, queue, queue->npages);
	kvfree(queue->pages);
	if (queue->entry)
		rdma_user_mmap_entry_remove(queue->entry);
	else
		vfree(queue->buf);
	queue->buf = NULL;
}

/*
 * Its memory as the device wants it, adjacent pages in one run; returns how
 * many there are. @runs NULL: only counts.
 */
u32 vrdma_queue_runs(const struct vrdma_queue *queue,
		     struct virtio_rdma_run *runs)
{
	u32 i, first = 0, count = 0;

	for (i = 1; i <= queue->npages; i++) {
		if (i < queue->npages &&
		    queue->pages[i] == queue->pages[i - 1] + PAGE_SIZE)
			continue;
		if (runs) {
			runs[count].address = cpu_to_le64(queue->pages[first]);
			runs[count].length =
				cpu_to_le64((u64)(i - first) * PAGE_SIZE);
		}
		count++;
		first = i;
	}
	return count;
}
