/* Gives DPDK's inline functions a symbol. Decides nothing. */
#include "shim.h"

int gyre_errno(void)
{
	return rte_errno;
}

unsigned int gyre_lcore_id(void)
{
	return rte_lcore_id();
}

uint64_t gyre_tsc(void)
{
	return rte_rdtsc();
}

int gyre_link(uint16_t port, bool *up, uint32_t *speed_mbps)
{
	struct rte_eth_link link = {0};
	int code = rte_eth_link_get_nowait(port, &link);

	*up = link.link_status == RTE_ETH_LINK_UP;
	*speed_mbps = link.link_speed;
	return code;
}

uint16_t gyre_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, frames, count);
}

uint16_t gyre_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, frames, count);
}

struct rte_mbuf *gyre_mbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

int gyre_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **frames, unsigned int count)
{
	return rte_pktmbuf_alloc_bulk(pool, frames, count);
}

void gyre_mbuf_free(struct rte_mbuf *frame)
{
	rte_pktmbuf_free(frame);
}

void gyre_mbuf_free_bulk(struct rte_mbuf **frames, unsigned int count)
{
	rte_pktmbuf_free_bulk(frames, count);
}

int gyre_mbuf_linearize(struct rte_mbuf *frame)
{
	return rte_pktmbuf_linearize(frame);
}

bool gyre_mempool_has_cache_here(struct rte_mempool *pool)
{
	return rte_mempool_default_cache(pool, rte_lcore_id()) != NULL;
}
