/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A table of objects by number: queue pairs by their number, regions and windows by their key's index.
 * Looking up takes no memory and about the same time however many there are.
 */
#ifndef GODWIT_RDMA_TABLE_H
#define GODWIT_RDMA_TABLE_H

#include <stdbool.h>
#include <stdint.h>

/* A member of each object that is in a table. */
struct rdma_table_entry {
	struct rdma_table_entry *next;
	uint32_t number;
};

/* Zeros are an empty table. */
struct rdma_table {
	struct rdma_table_entry **buckets;
	uint32_t bucket_count, count;
};

/* NULL: there is none. */
struct rdma_table_entry *rdma_table_find(const struct rdma_table *table, uint32_t number);
/* Adds @entry, whose number is not in the table. False: no memory. */
bool rdma_table_add(struct rdma_table *table, struct rdma_table_entry *entry);
void rdma_table_remove(struct rdma_table *table, struct rdma_table_entry *entry);
/* The table is empty. */
void rdma_table_free(struct rdma_table *table);

#endif
