"""METHODS 2.10-13, 3.8-6, 4.8-6 and 5: the objectives, against the formulas written out."""

from __future__ import annotations

import pytest
import torch

from trainer import losses


@pytest.fixture
def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    prediction, wanted = (torch.randn(3, 4, 8, 6, generator=generator) for _ in range(2))
    mask = (torch.rand(3, 1, 8, 6, generator=generator) < 0.4).float()
    return prediction.requires_grad_(), wanted, mask


def test_2_10_13_weights_of_one_give_plain_mse(tensors):
    prediction, wanted, mask = tensors
    weight = losses.region_weight(mask, inside=1.0, outside=1.0)
    plain = ((prediction - wanted) ** 2).mean(dim=(1, 2, 3))
    for squared in (True, False):
        torch.testing.assert_close(
            losses.weighted_mse(prediction, wanted, weight, squared=squared), plain, rtol=1e-7, atol=0
        )


def test_2_10_13_released_weights_act_squared(tensors):
    prediction, wanted, mask = tensors
    weight = losses.region_weight(mask, inside=1.5, outside=0.6)
    # the release multiplies prediction and target by the weight
    released = ((weight * prediction - weight * wanted) ** 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(losses.weighted_mse(prediction, wanted, weight, squared=True), released)
    effective = torch.where(mask.bool(), 2.25, 0.36)
    by_hand = (effective * (prediction - wanted) ** 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(losses.weighted_mse(prediction, wanted, weight, squared=True), by_hand)


@pytest.mark.parametrize(("squared", "factor"), [(True, 0.36), (False, 0.6)])
def test_2_10_13_background_gradient_scales_by_its_weight(tensors, squared, factor):
    prediction, wanted, mask = tensors
    (plain,) = torch.autograd.grad(((prediction - wanted) ** 2).mean(dim=(1, 2, 3)).sum(), prediction)
    weight = losses.region_weight(mask, inside=1.5, outside=0.6)
    weighted = losses.weighted_mse(prediction, wanted, weight, squared=squared).sum()
    (gradient,) = torch.autograd.grad(weighted, prediction)
    outside = (mask == 0).expand_as(gradient)
    torch.testing.assert_close(gradient[outside], factor * plain[outside])


def test_3_8_6_padded_cells_have_no_gradient_and_released_is_four_times_the_mean(tensors):
    prediction, wanted, valid = tensors
    (gradient,) = torch.autograd.grad(losses.padded_mse(prediction, wanted, valid, released=False).sum(), prediction)
    assert gradient[(valid == 0).expand_as(gradient)].abs().max() == 0
    assert gradient[(valid == 1).expand_as(gradient)].abs().min() > 0
    ones = torch.ones_like(valid)
    mse = ((prediction - wanted) ** 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(losses.padded_mse(prediction, wanted, ones, released=True), 4 * mse, rtol=1e-6, atol=0)
    torch.testing.assert_close(losses.padded_mse(prediction, wanted, ones, released=False), mse)


def test_4_8_6_object_loss_counts_by_the_masks_own_size(tensors):
    prediction, wanted, mask = tensors
    loss = losses.object_mse(prediction, wanted, mask)
    for row in range(3):
        inside = mask[row, 0].bool()
        by_hand = ((prediction[row] - wanted[row]) ** 2)[:, inside].mean()
        torch.testing.assert_close(loss[row], by_hand)
    (gradient,) = torch.autograd.grad(loss.sum(), prediction)
    assert gradient[(mask == 0).expand_as(gradient)].abs().max() == 0
    everywhere = losses.object_mse(prediction, wanted, torch.ones_like(mask)).sum()
    (gradient,) = torch.autograd.grad(everywhere, prediction)
    assert gradient.abs().min() > 0


def test_min_snr_caps_easy_timesteps_and_leaves_hard_ones():
    alphas = torch.linspace(0.999, 0.01, 1000)
    timesteps = torch.tensor([0, 500, 999])
    snr = alphas[timesteps] / (1 - alphas[timesteps])
    weight = losses.min_snr(alphas, timesteps, gamma=5.0, prediction_type="epsilon")
    torch.testing.assert_close(weight, torch.clamp(5 / snr, max=1.0))
    assert weight[0] < 0.01
    assert weight[2] == 1
    velocity = losses.min_snr(alphas, timesteps, gamma=5.0, prediction_type="v_prediction")
    torch.testing.assert_close(velocity, torch.clamp(snr, max=5.0) / (snr + 1))
