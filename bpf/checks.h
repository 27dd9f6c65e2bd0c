// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * May this packet go on? No maps.
 */
#pragma once

#define BYTE_COST_SHIFT 10 /* of 1/1024 ns */

static __always_inline int is_ours(const struct config *config, __be16 port)
{
	return port == config->ports[0] || port == config->ports[1] || port == config->ports[2] ||
	       port == config->ports[3];
}

static __always_inline int check_pair(const struct datagram *datagram, const struct owner *from,
				      const struct owner *to, __u64 now)
{
	if (from->lease_end_ns <= now || to->lease_end_ns <= now)
		return OUTCOME_EXPIRED;
	if (to->ipv6 != datagram->ipv6)
		return OUTCOME_FAMILY_MISMATCH;
	if ((datagram->ipv6 ? datagram->ip6->hop_limit : datagram->ip4->ttl) <= 1)
		return OUTCOME_HOP_LIMIT;
	return 0;
}

/* Whether the next packet may pass; 0, or why not. */
static __always_inline int bucket_refuses(const struct bucket *bucket, __u64 now)
{
	if (!bucket)
		return 0;
	if (bucket->shut)
		return OUTCOME_ALLOWANCE_USED;
	if (bucket->packets_until_ns > now + bucket->burst_ns ||
	    bucket->bytes_until_ns > now + bucket->burst_ns)
		return OUTCOME_RATE_LIMITED;
	return 0;
}

static __always_inline void take_from(struct bucket *bucket, __u64 now, __u32 length)
{
	__u64 packets_until, bytes_until;

	if (!bucket)
		return;
	packets_until = bucket->packets_until_ns > now ? bucket->packets_until_ns : now;
	bytes_until = bucket->bytes_until_ns > now ? bucket->bytes_until_ns : now;
	bucket->packets_until_ns = packets_until + bucket->packet_cost_ns;
	bucket->bytes_until_ns =
		bytes_until + (((__u64)length * bucket->byte_cost) >> BYTE_COST_SHIFT);
	__sync_fetch_and_add(&bucket->packets, 1);
	__sync_fetch_and_add(&bucket->bytes, length);
}

static __always_inline void drop_at(struct bucket *bucket, __u32 length)
{
	if (!bucket)
		return;
	__sync_fetch_and_add(&bucket->dropped_packets, 1);
	__sync_fetch_and_add(&bucket->dropped_bytes, length);
}

/*
 * Token buckets as two times: when each would be full again (the generic cell rate algorithm). Two
 * CPUs may both take the last token; that is one packet too many, and costs no lock.
 */
static __always_inline int over_rate(struct owner *owner, __u64 now, __u32 length)
{
	__u64 packets_until, bytes_until;

	if (!owner->packet_cost_ns && !owner->byte_cost)
		return 0;
	packets_until = owner->packets_until_ns > now ? owner->packets_until_ns : now;
	bytes_until = owner->bytes_until_ns > now ? owner->bytes_until_ns : now;
	if (packets_until - now > owner->burst_ns || bytes_until - now > owner->burst_ns)
		return 1;
	owner->packets_until_ns = packets_until + owner->packet_cost_ns;
	owner->bytes_until_ns =
		bytes_until + (((__u64)length * owner->byte_cost) >> BYTE_COST_SHIFT);
	return 0;
}
