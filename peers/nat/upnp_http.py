"""HTTP with a gateway, for async-upnp-client: to its own address only, and within bounds."""

import aiohttp
from async_upnp_client.client import UpnpRequester
from async_upnp_client.const import HttpRequest, HttpResponse
from async_upnp_client.exceptions import UpnpCommunicationError

from .upnp import is_of_gateway


class BoundedRequester(UpnpRequester):
    """Refuses other hosts, follows no redirection, keeps no cookie, reads no more than so much."""

    def __init__(self, gateway: str, max_body: int, timeout_s: float) -> None:
        self._gateway = gateway
        self._max_body = max_body
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def async_http_request(self, http_request: HttpRequest) -> HttpResponse:
        """Make one request.

        :raises UpnpCommunicationError: it is refused by us, or fails.
        """
        if not is_of_gateway(http_request.url, self._gateway):
            raise UpnpCommunicationError(message="a URL that is not the gateway's own")
        jar = aiohttp.DummyCookieJar()
        try:
            async with (
                aiohttp.ClientSession(cookie_jar=jar, timeout=self._timeout) as session,
                session.request(
                    http_request.method,
                    http_request.url,
                    headers=dict(http_request.headers or {}),
                    data=http_request.body,
                    allow_redirects=False,
                ) as response,
            ):
                body = await self._read(response)
                text = body.decode(response.charset or "utf-8", errors="replace")
                headers = {name.lower(): value for name, value in response.headers.items()}
                return HttpResponse(response.status, headers, text)
        except (TimeoutError, aiohttp.ClientError, LookupError, ValueError, OSError) as error:
            raise UpnpCommunicationError(message=type(error).__name__) from None

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_chunked(16_384):
            body += chunk
            if len(body) > self._max_body:
                raise UpnpCommunicationError(message="an answer that is too large")
        return bytes(body)
