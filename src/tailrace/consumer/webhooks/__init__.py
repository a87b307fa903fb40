"""Telling other systems of ended jobs by HTTP, by the Standard Webhooks rules: a reader of the hand-off for each receiver.

Imports what its room may, and the packages of the extra `webhooks`; nothing of tailrace imports it but the command.
Source: github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md.
"""

from tailrace.consumer.webhooks.address import AddressRefused, is_public
from tailrace.consumer.webhooks.courier import Webhooks
from tailrace.consumer.webhooks.message import Message, message_of

__all__ = ["AddressRefused", "Message", "Webhooks", "is_public", "message_of"]
