"""Letters: thanks whoever has paid."""

from billing import Payment, payments

from flowmesh import Part

letters = Part("letters")


@letters.actor(bind=payments.on("paid"))
async def thank(payment: Payment) -> None:
    print(f"thank you, {payment.customer}, for {payment.amount:.2f}")
