/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The table of objects by number: chains in a power of two of buckets, at least one for each object.
 *
 * Runs on the engine's thread. Only adding can fail, for want of memory.
 */
#include "rdma/table.h"

#include <stdlib.h>

#define BUCKETS_MIN 64U

static struct rdma_table_entry **bucket_of(const struct rdma_table *table, uint32_t number)
{
	/* Numbers are often multiples of something. */
	return &table->buckets[(number * 2654435769U >> 7) & (table->bucket_count - 1)];
}

struct rdma_table_entry *rdma_table_find(const struct rdma_table *table, uint32_t number)
{
	struct rdma_table_entry *entry;

	if (!table->bucket_count)
		return NULL;
	for (entry = *bucket_of(table, number); entry && entry->number != number;
	     entry = entry->next)
		;
	return entry;
}

static void insert(struct rdma_table *table, struct rdma_table_entry *entry)
{
	struct rdma_table_entry **bucket = bucket_of(table, entry->number);

	entry->next = *bucket;
	*bucket = entry;
}

static bool grow(struct rdma_table *table)
{
	struct rdma_table larger = {.count = table->count};

	larger.bucket_count = table->bucket_count ? table->bucket_count * 2 : BUCKETS_MIN;
	larger.buckets = calloc(larger.bucket_count, sizeof(*larger.buckets));
	if (!larger.buckets)
		return false;
	for (uint32_t i = 0; i < table->bucket_count; i++) {
		while (table->buckets[i]) {
			struct rdma_table_entry *entry = table->buckets[i];

			table->buckets[i] = entry->next;
			insert(&larger, entry);
		}
	}
	free(table->buckets);
	*table = larger;
	return true;
}

bool rdma_table_add(struct rdma_table *table, struct rdma_table_entry *entry)
{
	if (table->count == table->bucket_count && !grow(table))
		return false;
	insert(table, entry);
	table->count++;
	return true;
}

void rdma_table_remove(struct rdma_table *table, struct rdma_table_entry *entry)
{
	struct rdma_table_entry **link = bucket_of(table, entry->number);

	while (*link != entry)
		link = &(*link)->next;
	*link = entry->next;
	table->count--;
}

void rdma_table_free(struct rdma_table *table)
{
	free(table->buckets);
	*table = (struct rdma_table){0};
}
