/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Finding memory that other processes have filled although it was given back: a process that has been
 * handed a block's descriptor (a vhost-user back-end) can map and touch all of it, whatever it was told.
 */
#ifndef GODWIT_MEMORY_RAM_RECLAIM_H
#define GODWIT_MEMORY_RAM_RECLAIM_H

#include "memory/ram_block.h"

/*
 * Gives back again what of [offset, offset + size) the host holds: a range that was discarded and that
 * nobody in this process uses, both multiples of the page size. Returns how many bytes that was; 0 for a block
 * without a descriptor, which no other process can reach. As fast as there is nothing.
 */
uint64_t ram_block_reclaim(struct ram_block *block, uint64_t offset, uint64_t size);

#endif
