// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The frame for the next hop. Pure: no maps. Checksums are updated by what changed (RFC 1624), never
 * computed anew, so that damage done before us stays visible to the receiver.
 */
#pragma once

#define IPV4_DONT_FRAGMENT 0x4000 /* RFC 791 */

/* What to write: a copy taken from the owner, so that no write of the relay can tear it. */
struct rewrite {
	struct source_key path;
	__u8 peer_mac[6];
	__u8 own_mac[6];
};

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)sum;
}

static __always_inline __u64 replaced(__be32 before, __be32 after)
{
	return (__u64)(__u32)~before + after;
}

/* The sum over addresses, protocol and length that a UDP checksum begins with (RFC 768). */
static __always_inline __u16 pseudo_header(const struct source_key *key, __be16 udp_length)
{
	__u64 sum = (__u64)bpf_htons(IPPROTO_UDP) + udp_length;

#pragma unroll
	for (int i = 0; i < 4; i++)
		sum += (__u64)key->remote[i] + key->local[i];
	/* The prefix of a mapped IPv4 address is no part of it: 2 * 0xffff is zero here. */
	return fold(sum);
}

static __always_inline void rewrite_udp(struct udphdr *udp, const struct rewrite *to, __u64 delta,
					int partial)
{
	__u16 check = udp->check;

	if (partial) {
		/* Hardware would add the rest: the field holds the pseudo-header's sum alone. */
		udp->check = fold((__u64)check + delta);
	} else if (check) {
		delta += (__u64)(__u16)~udp->source + to->path.local_port;
		delta += (__u64)(__u16)~udp->dest + to->path.remote_port;
		check = ~fold((__u64)(__u16)~check + delta);
		udp->check = check ? check : 0xffff; /* RFC 768: zero would say "none" */
	}
	udp->source = to->path.local_port;
	udp->dest = to->path.remote_port;
}

static __always_inline void rewrite_ipv4(struct iphdr *ip, const struct rewrite *to, __u64 delta)
{
	__be16 *ttl_and_protocol = (__be16 *)&ip->ttl;
	__be16 ttl_before = *ttl_and_protocol;
	__be16 fragment_before = ip->frag_off;

	ip->ttl--;
	ip->frag_off = bpf_htons(IPV4_DONT_FRAGMENT); /* the caller refused fragments */
	delta += (__u64)(__u16)~ttl_before + *ttl_and_protocol;
	delta += (__u64)(__u16)~fragment_before + ip->frag_off;
	ip->check = ~fold((__u64)(__u16)~ip->check + delta);
	ip->saddr = to->path.local[3];
	ip->daddr = to->path.remote[3];
}

static __always_inline void rewrite_frame(const struct datagram *datagram,
					  const struct source_key *before, const struct rewrite *to,
					  int partial)
{
	__u64 delta = replaced(before->remote[3], to->path.local[3]) +
		      replaced(before->local[3], to->path.remote[3]);

	if (!datagram->ipv6) {
		rewrite_udp(datagram->udp, to, delta, partial);
		rewrite_ipv4(datagram->ip4, to, delta);
	} else {
#pragma unroll
		for (int i = 0; i < 3; i++)
			delta += replaced(before->remote[i], to->path.local[i]) +
				 replaced(before->local[i], to->path.remote[i]);
		rewrite_udp(datagram->udp, to, delta, partial);
		datagram->ip6->hop_limit--;
		__builtin_memcpy(&datagram->ip6->saddr, to->path.local, sizeof(to->path.local));
		__builtin_memcpy(&datagram->ip6->daddr, to->path.remote, sizeof(to->path.remote));
	}
	__builtin_memcpy(datagram->eth->h_dest, to->peer_mac, 6);
	__builtin_memcpy(datagram->eth->h_source, to->own_mac, 6);
}
