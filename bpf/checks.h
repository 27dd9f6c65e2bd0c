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
